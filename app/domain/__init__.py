"""Pure values and decisions. Time and chance arrive as arguments; standard library only."""
