"""Off-peak windows: when a model's upstream is cheap and quiet, and when a task that waits for that must start anyway.

A task that waits for off-peak hours starts at their beginning, or at its latest safe start, whichever is earlier. The
latest safe start of the n-th nearest deadline leaves room for the backlog that is there, the n - 1 before it, half as
much again, and a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.billing.domain.calendar import Calendar

MARGIN = 60.0  # seconds kept free before a deadline
SLACK = 1.5  # times the time that the tasks before it should take
UNKNOWN_PACE = 1.0  # tasks a second, where nothing is known of a line's pace
_FURTHEST = 100  # periods stepped over


@dataclass(frozen=True, slots=True)
class Windows:
    """The busy hours of all upstreams concerned; off-peak is where none of them has any."""

    busy: tuple[Calendar, ...]

    def is_busy(self, at: float) -> bool:
        """Whether an instant (Unix seconds) lies in busy hours."""
        return any(calendar.is_peak(at) for calendar in self.busy)

    def quiet_from(self, at: float) -> float:
        """The first off-peak instant at or after `at`."""
        for _ in range(_FURTHEST):
            later = max((calendar.off_peak_from(at) for calendar in self.busy), default=at)
            if later == at:
                break
            at = later
        return at


def latest_start(deadline: float, ahead: float, pace: float) -> float:
    """When a task must be let go at the latest, with so many tasks before it at so many a second."""
    return deadline - MARGIN - SLACK * ahead / max(pace, 1e-6)


def must_start(deadlines: Sequence[float], count: int, backlog: int, pace: float, now: float) -> int:
    """How many of the tasks that wait for a window have to go now, nearest deadline first.

    `deadlines` are the nearest of `count` in all, in order; those beyond are taken to have the last one. `backlog`
    tasks are in line already, which moves at `pace`.
    """
    found = 0
    for number, deadline in enumerate(deadlines):
        if latest_start(deadline, backlog + number, pace) <= now:
            found = number + 1
    if deadlines and latest_start(deadlines[-1], backlog + count - 1, pace) <= now:
        return len(deadlines)
    return found
