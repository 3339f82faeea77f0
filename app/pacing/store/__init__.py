"""Statements and scripts: how this room's state is read and changed."""
