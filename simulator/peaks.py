"""Sliding-window maxima: prove that callers kept a limit that was not enforced."""

from __future__ import annotations

from array import array
from bisect import bisect_right

_COMPACT_AT = 4096


class SlidingPeak:
    """The largest sum of amounts in any window of `seconds`, open at one end.

    Times may come out of order: a call counts when it arrived, even if its body was read later.
    Exact for times at most `seconds` late; older ones are ignored.
    """

    __slots__ = ("_amounts", "_first", "_instants", "_sum", "peak", "seconds")

    def __init__(self, seconds: float) -> None:
        """An empty record."""
        self.seconds = seconds
        self.peak = 0
        self._instants = array("d")
        self._amounts = array("q")
        self._first = 0  # the oldest entry inside the window that ends with the newest
        self._sum = 0  # of that window

    def add(self, at: float, amount: int = 1) -> None:
        """Count `amount` at an instant."""
        instants = self._instants
        if instants and at < instants[-1]:
            self._add_late(at, amount)
            return
        instants.append(at)
        self._amounts.append(amount)
        self._sum += amount
        edge = at - self.seconds
        while instants[self._first] <= edge:
            self._sum -= self._amounts[self._first]
            self._first += 1
        if self._sum > self.peak:
            self.peak = self._sum
        if self._first >= _COMPACT_AT:
            self._forget(edge - self.seconds)

    def _add_late(self, at: float, amount: int) -> None:
        """Insert in order, then recheck every window that ends at or after it."""
        place = bisect_right(self._instants, at)
        self._instants.insert(place, at)
        self._amounts.insert(place, amount)
        if at > self._instants[-1] - self.seconds:
            self._sum += amount
        else:
            self._first += 1
        first, total = self._first, self._sum
        for last in range(len(self._instants) - 1, place - 1, -1):
            while first > 0 and self._instants[first - 1] > self._instants[last] - self.seconds:
                first -= 1
                total += self._amounts[first]
            self.peak = max(self.peak, total)
            total -= self._amounts[last]

    def _forget(self, before: float) -> None:
        cut = min(bisect_right(self._instants, before), self._first)
        if cut >= _COMPACT_AT // 2:
            del self._instants[:cut]
            del self._amounts[:cut]
            self._first -= cut
