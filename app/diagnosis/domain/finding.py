"""What an examination finds: one line each, how bad it is, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad; the worst of all is the exit code of `penstock doctor`. What was not measured counts as nothing."""

    NOT_MEASURED = -1
    OK = 0
    WARN = 1  # works, and will not for long, or not well
    FAIL = 2  # tasks fail, wait or are lost sight of because of it

    @property
    def word(self) -> str:
        """As it is shown."""
        return self.name.lower()

    @property
    def mark(self) -> str:
        """As it stands before a line for people."""
        return "-" if self is Level.NOT_MEASURED else self.word


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. Never holds a secret. `hint` says what to do; empty when all is well.

    What could not be measured is not all right: it says why, and how it could be.
    """

    name: str
    level: Level
    message: str
    hint: str = ""


def ok(name: str, message: str) -> Finding:
    """A check that passed."""
    return Finding(name, Level.OK, message)


def warn(name: str, message: str, hint: str) -> Finding:
    """Something that should be looked at."""
    return Finding(name, Level.WARN, message, hint)


def fail(name: str, message: str, hint: str) -> Finding:
    """Something that must be fixed."""
    return Finding(name, Level.FAIL, message, hint)


def not_measured(name: str, reason: str, hint: str) -> Finding:
    """Something that nothing is known of: `hint` says how it could be measured."""
    return Finding(name, Level.NOT_MEASURED, f"not measured: {reason}", hint)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst of them; OK when there are none, or none was measured."""
    return max((finding.level for finding in findings if finding.level > Level.OK), default=Level.OK)


def milliseconds(seconds: float) -> str:
    """A short time for people: `0.4 ms`, `12 ms`, `2.1 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
