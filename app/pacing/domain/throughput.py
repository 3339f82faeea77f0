"""How fast backlog lists move."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

WINDOW = 30.0  # seconds over which a list's pace is measured
_SEEN = 5  # releases in it from which on it says more than what the limits let expect


@dataclass(slots=True)
class ReleaseRates:
    """Releases of each list in the last half minute. For one thread at a time."""

    _released: dict[tuple[str, int], deque[float]] = field(default_factory=dict)

    def released(self, queue: str, step: int, now: float) -> None:
        """One task left a list."""
        self._released.setdefault((queue, step), deque()).append(now)

    def rate(self, queue: str, step: int, now: float) -> float:
        """Releases a second; 0 for a list that stands still."""
        times = self._released.get((queue, step))
        if not times:
            return 0.0
        while times and now - times[0] > WINDOW:
            times.popleft()
        if not times:
            del self._released[queue, step]
            return 0.0
        return len(times) / max(1.0, now - times[0])

    def likely(self, queue: str, step: int, now: float, expected: float | None) -> float | None:
        """The pace that was seen; while there is little to see, the one that limits let expect. None: nobody knows."""
        seen = self.rate(queue, step, now)
        if expected is None or len(self._released.get((queue, step), ())) >= _SEEN:
            return seen or None
        return expected


@dataclass(slots=True)
class PerMinuteCounter:
    """Calls let through in the last 60 s, by quota."""

    _by_second: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)  # (second, calls)

    def released(self, quotas: Iterable[str], now: float) -> None:
        """One call passed these quotas."""
        second = int(now)
        for name in quotas:
            seconds = self._by_second.setdefault(name, deque())
            if seconds and seconds[-1][0] == second:
                seconds[-1] = (second, seconds[-1][1] + 1)
            else:
                seconds.append((second, 1))

    def counts(self, now: float) -> dict[str, int]:
        """How many passed each, where any did."""
        for name, seconds in list(self._by_second.items()):
            while seconds and seconds[0][0] <= now - 60:
                seconds.popleft()
            if not seconds:
                del self._by_second[name]
        return {name: sum(calls for _, calls in seconds) for name, seconds in self._by_second.items()}
