"""SIGHUP has two meanings: somebody asks for a reload, or the terminal was closed."""

from __future__ import annotations

import os
import sys
import termios


class Hangup:
    """Made at the start, when the terminal (if there is one) is still there."""

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()

    def happened(self) -> bool:
        """Whether there was a terminal, and it has gone."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno()) and bool(termios.tcgetattr(sys.stdin.fileno()))
    except (OSError, ValueError, termios.error):
        return False
