"""How fast backlog lists move, and how good the estimates were that were made of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 30.0  # seconds over which a list's pace is measured
_WATCHED = 200  # estimates under watch at once
_KEPT = 200  # of those that came true
_FORGOTTEN = 3600.0  # seconds after which an estimate is given up


@dataclass(slots=True)
class Accuracy:
    """Estimated starts against real ones."""

    _watched: dict[str, tuple[float, float]] = field(default_factory=dict)  # task: made at, start estimated
    _errors: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def estimated(self, task_id: str, now: float, start_at: float) -> None:
        """An estimate was made; the first one of a task counts."""
        if task_id not in self._watched and len(self._watched) < _WATCHED:
            self._watched[task_id] = (now, start_at)

    def started(self, task_id: str, now: float) -> None:
        """A task was released."""
        found = self._watched.pop(task_id, None)
        if found is not None:
            made_at, start_at = found
            self._errors.append((abs(now - start_at), now - made_at))

    def forget(self, now: float) -> None:
        """Give up what was cancelled, or has waited too long."""
        self._watched = {k: v for k, v in self._watched.items() if now - v[0] < _FORGOTTEN}

    def summary(self) -> dict[str, float | int | None]:
        """How many came true, and the median error in seconds and as a part of the wait."""
        if not self._errors:
            return {"count": 0, "median_error_seconds": None, "median_error_share": None}
        errors = sorted(error for error, _ in self._errors)
        shares = sorted(error / max(1.0, waited) for error, waited in self._errors)
        middle = len(errors) // 2
        return {
            "count": len(errors),
            "median_error_seconds": round(errors[middle], 3),
            "median_error_share": round(shares[middle], 3),
        }


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
