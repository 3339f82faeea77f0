"""Tasks that may run off-peak alone: held again when busy hours begin, let go in time for their deadlines.

Their hours' beginning needs nobody: the feeder lets them go then, as it does with every task whose time has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.billing.domain.calendar import UNKNOWN_PACE, Windows, must_start
from app.platform.database import Database
from app.platform.ports import Clock
from app.tasks.ports import BacklogPublisher
from app.tasks.store import windows

EVERY = 5.0  # seconds
_AT_ONCE = 2_000  # rows moved in one transaction

PaceOf = Callable[[str, str], float | None]
"""A queue's and a model's pace, in tasks a second; None: nobody knows."""


class ScheduleOffPeak:
    """One of the leader's chores."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
        clock: Clock,
        hours: Mapping[str, Windows],
        pace_of: PaceOf,
    ) -> None:
        """`hours` are the busy ones, by model."""
        self._database = database
        self._reservoir = reservoir
        self._clock = clock
        self._hours = hours
        self._pace_of = pace_of
        self._due = 0.0

    def tick(self) -> int:
        """Do both, once every five seconds; gives back how many rows moved. Raises DatabaseUnreachable."""
        if self._clock.monotonic() < self._due:
            return 0
        self._due = self._clock.monotonic() + EVERY
        now = self._clock.now()
        moved = sum(self._hold(model, hours, now) for model, hours in self._hours.items())
        started = sum(
            self._start(one, now) for one in self._database.read(windows.off_peak_queues) if one.deadlines
        )
        if started:
            self._reservoir.ring()
        return moved + started

    def _hold(self, model: str, hours: Windows, now: float) -> int:
        if not hours.is_busy(now):
            return 0
        until = hours.quiet_from(now)
        held = self._database.write(lambda conn: windows.hold_for_window(conn, model, until, _AT_ONCE))
        if held:
            self._reservoir.forget(held)
        return len(held)

    def _start(self, one: windows.OffPeakQueue, now: float) -> int:
        pace = self._pace_of(one.queue, one.model) or UNKNOWN_PACE
        number = must_start(one.deadlines, one.count, one.backlog, pace, now)
        if not number:
            return 0
        until = one.deadlines[number - 1]
        return self._database.write(lambda conn: windows.start_early(conn, one.queue, until, now, _AT_ONCE))
