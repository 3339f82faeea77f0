"""Peak hours: when an upstream is dear or crowded, as its working days and hours say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import count

_FURTHEST = 30  # days looked ahead: longer than any holiday


@dataclass(frozen=True, slots=True)
class Calendar:
    """Peak hours in a zone's own time: on `weekdays` (Monday is 0) that are no holidays, within `hours`.

    `hours` are (from, until) in minutes of the day, in order and apart; `until` is no part of them any more.
    """

    zone: tzinfo
    hours: tuple[tuple[int, int], ...]
    weekdays: frozenset[int] = frozenset(range(5))
    holidays: frozenset[date] = field(default_factory=frozenset)

    def is_peak(self, at: float) -> bool:
        """Whether an instant (Unix seconds) lies in peak hours."""
        return any(begin <= at < end for begin, end in self._periods_of(self._day(at)))

    def off_peak_from(self, at: float) -> float:
        """The first instant at or after `at` that lies outside peak hours."""
        for begin, end in self._periods(at):
            if at < begin:
                break
            if at < end:
                return end
        return at

    def off_peak_until(self, at: float) -> float | None:
        """When the off-peak time that holds at `at` ends; None when no peak is ahead within a month.

        At once (`at` itself) inside peak hours.
        """
        if self.is_peak(at):
            return at
        return next((begin for begin, _ in self._periods(at) if begin > at), None)

    def _day(self, at: float) -> date:
        return datetime.fromtimestamp(at, self.zone).date()

    def _periods(self, at: float) -> Iterator[tuple[float, float]]:
        """Peak hours from the day of `at` on, in order."""
        first = self._day(at)
        for ahead in count():
            if ahead > _FURTHEST:
                return
            yield from self._periods_of(first + timedelta(days=ahead))

    def _periods_of(self, day: date) -> Iterator[tuple[float, float]]:
        if day.weekday() not in self.weekdays or day in self.holidays:
            return
        for begin, end in self.hours:
            yield self._instant(day, begin), self._instant(day, end)

    def _instant(self, day: date, minutes: int) -> float:
        """Minutes after midnight by the clock on the wall, also on days on which it is changed."""
        days, rest = divmod(minutes, 24 * 60)
        local = datetime.combine(day + timedelta(days=days), time(rest // 60, rest % 60), self.zone)
        return local.astimezone(UTC).timestamp()
