"""Pure values and decisions: standard library only; time and randomness are arguments."""
