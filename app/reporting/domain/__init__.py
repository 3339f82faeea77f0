"""Pure values and decisions: standard library only; time and chance arrive as arguments."""
