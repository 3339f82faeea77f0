"""Peak hours of upstreams, and off-peak windows: when a task that waits for one starts.

Such a task starts when the window opens, or at its latest safe start, whichever is earlier. The latest safe start of
the n-th nearest deadline leaves room for the backlog, for the n - 1 tasks before it, half as much again, and a
minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import count

_MAX_DAYS = 30  # days to look ahead: longer than any holiday


@dataclass(frozen=True, slots=True)
class Calendar:
    """Peak hours in a time zone: on `weekdays` (Monday is 0) that are not holidays, within `hours`.

    `hours` are (from, until) in minutes of the day, in order, without overlap; `until` is exclusive.
    """

    zone: tzinfo
    hours: tuple[tuple[int, int], ...]
    weekdays: frozenset[int] = frozenset(range(5))
    holidays: frozenset[date] = field(default_factory=frozenset)

    def is_peak(self, at: float) -> bool:
        """Whether an instant (Unix seconds) is in peak hours."""
        return any(begin <= at < end for begin, end in self._periods_of(self._day(at)))

    def off_peak_from(self, at: float) -> float:
        """The first instant at or after `at` outside peak hours."""
        for begin, end in self._periods(at):
            if at < begin:
                break
            if at < end:
                return end
        return at

    def changes(self, since: float, until: float) -> Iterator[float]:
        """The instants up to `until` at which peak hours begin or end, 30 days from `since` at most."""
        for begin, end in self._periods(since):
            if begin >= until:
                return
            yield from (begin, end)

    def _day(self, at: float) -> date:
        return datetime.fromtimestamp(at, self.zone).date()

    def _periods(self, at: float) -> Iterator[tuple[float, float]]:
        """Peak periods from the day of `at` on, in order."""
        first = self._day(at)
        for ahead in count():
            if ahead > _MAX_DAYS:
                return
            yield from self._periods_of(first + timedelta(days=ahead))

    def _periods_of(self, day: date) -> Iterator[tuple[float, float]]:
        if day.weekday() not in self.weekdays or day in self.holidays:
            return
        for begin, end in self.hours:
            yield self._instant(day, begin), self._instant(day, end)

    def _instant(self, day: date, minutes: int) -> float:
        """The instant of a local time of day, also on days when the clocks change."""
        days, rest = divmod(minutes, 24 * 60)
        local = datetime.combine(day + timedelta(days=days), time(rest // 60, rest % 60), self.zone)
        return local.astimezone(UTC).timestamp()


MARGIN = 60.0  # seconds left free before a deadline
SLACK = 1.5  # times the expected time of the tasks before it
UNKNOWN_PACE = 1.0  # tasks per second, when a queue's throughput is unknown
_MAX_STEPS = 100  # periods to step over


@dataclass(frozen=True, slots=True)
class Windows:
    """The peak hours of all upstreams of a model; off-peak is when none of them has any."""

    busy: tuple[Calendar, ...]

    def is_busy(self, at: float) -> bool:
        """Whether an instant (Unix seconds) is in any upstream's peak hours."""
        return any(calendar.is_peak(at) for calendar in self.busy)

    def quiet_from(self, at: float) -> float:
        """The first off-peak instant at or after `at`."""
        for _ in range(_MAX_STEPS):
            later = max((calendar.off_peak_from(at) for calendar in self.busy), default=at)
            if later == at:
                break
            at = later
        return at


def latest_start(deadline: float, ahead: float, pace: float) -> float:
    """When a task must start at the latest, with `ahead` tasks before it at `pace` tasks per second."""
    return deadline - MARGIN - SLACK * ahead / max(pace, 1e-6)


def must_start(deadlines: Sequence[float], count: int, backlog: int, pace: float, now: float) -> int:
    """How many of the tasks that wait for a window must start now, nearest deadline first.

    `deadlines` are the nearest of `count` in all, in order; the others are assumed to have the last one. `backlog`
    tasks are queued already, with a throughput of `pace` tasks per second.
    """
    found = 0
    for number, deadline in enumerate(deadlines):
        if latest_start(deadline, backlog + number, pace) <= now:
            found = number + 1
    if deadlines and latest_start(deadlines[-1], backlog + count - 1, pace) <= now:
        return len(deadlines)
    return found
