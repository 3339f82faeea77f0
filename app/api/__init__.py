"""HTTP: parse, authenticate, call one service, render."""
