"""The command line, one group of commands a file."""

from app.cli.root import main

__all__ = ["main"]
