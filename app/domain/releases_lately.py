"""How fast backlog lists move."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 30.0  # seconds over which a list's pace is measured
_SEEN = 5  # releases in it from which on it says more than what the limits let expect


@dataclass(slots=True)
class Paces:
    """Releases of each list in the last half minute."""

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
