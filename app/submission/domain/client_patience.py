"""How long the client of a waiting call will go on listening, and which of its tries this is.

The OpenAI clients say so in headers of their own; others are taken to be as patient as theirs are by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_READ_TIMEOUT = 600.0  # seconds, the OpenAI clients' own
_HEADROOM = 5.0  # seconds before the client's read timeout by which an answer is on its way
_TIMEOUT_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
_COUNT_HEADER = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class Patience:
    """`seconds` that a call may wait; `repeats`: its client comes again by itself; `tries` before this one."""

    seconds: float
    repeats: bool = False
    tries: int = 0


def read_patience(header: Callable[[str], str | None]) -> Patience:
    """Read the headers of a request, by a function that gives a header's value by its name in lower case."""
    timeout = next(filter(None, (_seconds(header(name)) for name in _TIMEOUT_HEADERS)), DEFAULT_READ_TIMEOUT)
    count = header(_COUNT_HEADER)
    tries = int(count) if count and count.isascii() and count.isdigit() and len(count) < 6 else 0
    return Patience(_waiting(timeout), count is not None, tries)


def _waiting(timeout: float) -> float:
    """A client that hardly listens at all gets half of its time."""
    return max(timeout - _HEADROOM, timeout / 2)


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return min(seconds, 86400.0) if seconds > 0 and math.isfinite(seconds) else None
