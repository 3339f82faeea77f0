"""Read what is dear to read no more often than it is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from app.platform.ports import Clock

_REST = 20  # how many times as long as a read took nothing is read again

T = TypeVar("T")


class RateLimitedRead(Generic[T]):
    """A value that is read again after `least` seconds, or twenty times what reading it took."""

    def __init__(self, value: T, least: float, clock: Clock) -> None:
        self.value = value
        self._least = least
        self._clock = clock
        self._due = -1.0

    def get(self, read: Callable[[], T]) -> T:
        """The value; read now if it is due. Raises what `read` raises."""
        began = self._clock.monotonic()
        if began >= self._due:
            self.value = read()
            ended = self._clock.monotonic()
            self._due = ended + max(self._least, _REST * (ended - began))
        return self.value
