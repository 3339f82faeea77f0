"""Periodic jobs for tasks that should not just wait: expired, abandoned, degraded, or kept for off-peak hours.

All run in the leader's reconciler thread, one after the other. All raise DatabaseUnreachable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from app.billing.domain.calendar import UNKNOWN_PACE, Windows, must_start
from app.caching.domain.caching import AnswerCache, CachedAnswer, Fallback, NoAnswers
from app.dispatching.store import degrade
from app.pacing.domain.throughput import ThroughputCeiling, ceiling_of, unreachable
from app.pacing.store import lines
from app.platform.background_loop import Cooldown
from app.platform.database import Database
from app.platform.domain.names import parse_backlog_queue
from app.platform.heartbeats import HeartbeatMonitor, find_dead
from app.platform.ports import Clock
from app.settings.domain.routing import Topology
from app.submission import hold_connections
from app.submission.hold_connections import GRACE_SECONDS
from app.tasks.domain.attempt import TaskFailure
from app.tasks.domain.task import Status
from app.tasks.ports import BacklogPublisher
from app.tasks.store import off_peak, transitions

SEEN = 5_000  # tasks of a queue that are checked: those behind come forward
_UNREACHABLE_AT_ONCE = 1_000  # ended in one transaction

Lists = Callable[[], Iterable[tuple[str, int]]]
"""Queue and step of each list that has tasks waiting."""


class ExpireUnreachable:
    """Expires tasks that can no longer begin before their deadlines, instead of letting them wait for it."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        clock: Clock,
        topology: Topology,
        waiting: Lists,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._ceilings = {
            model: ceiling
            for model in topology.models
            if (ceiling := ceiling_of(model, topology)) is not None
        }
        self._waiting = waiting

    def tick(self) -> int:
        """Check all lists. Returns how many tasks ended."""
        return sum(
            self._look(queue, step, ceiling)
            for queue, step in sorted(self._waiting())
            if (ceiling := self._ceilings.get(parse_backlog_queue(queue)[0])) is not None
        )

    def _look(self, queue: str, step: int, ceiling: ThroughputCeiling) -> int:
        now = self._clock.now()
        line = self._database.read(lambda conn: lines.deadlines(conn, queue, step, SEEN))
        late = unreachable([deadline for deadline, _ in line], now, ceiling)[:_UNREACHABLE_AT_ONCE]
        if not late:
            return 0
        numbers = [line[place][1] for place in late]
        ended = self._database.write(lambda conn: lines.expire_at_once(conn, numbers, now, _failure(ceiling)))
        if ended:
            self._publisher.forget(ended)
            self._publisher.announce(ended)
        return len(ended)


def _failure(ceiling: ThroughputCeiling) -> TaskFailure:
    return TaskFailure(
        "timeout_error",
        "deadline_unreachable",
        f"the task could not start before its deadline: at most {ceiling.per_minute:.0f} calls a minute are allowed, "
        "and too many of its client's tasks are ahead of it",
    )


_ORPHANS_EVERY = 5.0  # seconds
_ABANDONED_AT_ONCE = 200


class AbandonCalls:
    """Cancels tasks whose waiting request is gone and was not repeated, also those that dead processes held."""

    def __init__(self, database: Database, publisher: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._silence = HeartbeatMonitor()
        self._orphans = Cooldown(_ORPHANS_EVERY)

    def tick(self) -> int:
        """Check heartbeats, then cancel one page. Returns how many tasks were cancelled."""
        self._free_dead()
        return self._give_up()

    def _free_dead(self) -> None:
        at = self._clock.monotonic()
        dead = find_dead(self._database, self._silence, hold_connections.beats, hold_connections.touch, at)
        if self._orphans.ready(at) or dead:
            self._free(dead)

    def _free(self, dead: list[str]) -> None:
        abandon_at = self._clock.now() + GRACE_SECONDS

        def free(conn: Connection) -> None:
            hold_connections.drop(conn, dead)
            hold_connections.free_orphans(conn, abandon_at)

        self._database.write(free)

    def _give_up(self) -> int:
        now = self._clock.now()
        due = self._database.read(lambda conn: hold_connections.abandoned(conn, now, _ABANDONED_AT_ONCE))
        cancelled = [
            name for name, has_callback in due.items() if self._cancel(name, has_callback=has_callback)
        ]
        if cancelled:
            self._publisher.forget(cancelled)
            self._publisher.announce(cancelled)
        return len(cancelled)

    def _cancel(self, task_id: str, *, has_callback: bool) -> bool:
        """Cancel a task unless its request was repeated or it has a callback. Returns whether that ended it."""
        now = self._clock.now()

        def cancel(conn: Connection) -> bool:
            mine = hold_connections.drop_abandoned(conn, task_id)
            return (
                mine and not has_callback and transitions.cancel_by_id(conn, task_id, now) is Status.CANCELLED
            )

        return self._database.write(cancel)


_DEGRADED_AT_ONCE = 500  # tasks ended in one transaction


class GiveDegraded:
    """Answers tasks that allow it by their model's fallback, once they have waited as long as configured.

    While nothing can serve a model, by the leader's own knowledge, at once.
    """

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        clock: Clock,
        fallbacks: Mapping[str, Fallback],
        notify: Callable[[Sequence[str]], object] = lambda _callbacks: None,
        *,
        answers: AnswerCache | None = None,
        down: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`fallbacks` by model; `notify` wakes the callback workers; `answers`: where stale answers are.

        `down` returns the models that nothing can serve.
        """
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._fallbacks = fallbacks
        self._notify = notify
        self._cache = answers or NoAnswers()
        self._down = down

    def tick(self) -> int:
        """Answer one page. Returns how many."""
        if not self._fallbacks:
            return 0
        now, down = self._clock.now(), [model for model in self._down() if model in self._fallbacks]

        def answers(rows: Sequence[Row[Any]]) -> dict[str, CachedAnswer]:
            keys = {row.cache_key for row in rows if row.cache_key is not None and row.cache_look}
            cached = self._cache.look(keys, stale=True) if keys else {}
            found = {row.id: self._answer(row, cached, now) for row in rows}
            return {name: answer for name, answer in found.items() if answer is not None}

        ended, callbacks = self._database.write(
            lambda conn: degrade(conn, now, _DEGRADED_AT_ONCE, answers, down)
        )
        if ended:
            self._publisher.forget(ended)
            self._publisher.announce(ended)
        if callbacks:
            self._notify(callbacks)
        return len(ended)

    def _answer(self, row: Row[Any], cached: Mapping[str, CachedAnswer], now: float) -> CachedAnswer | None:
        fallback = self._fallbacks.get(row.model)
        if fallback is None:
            return None
        return fallback.answer(row.id, row.model, cached.get(row.cache_key or ""), now)


_OFF_PEAK_AT_ONCE = 2_000  # rows moved in one transaction

PaceOf = Callable[[str, str], float | None]
"""Tasks a second of a queue and a model; None if unknown."""


class ScheduleOffPeak:
    """Holds off-peak tasks when busy hours begin, and starts them in time for their deadlines.

    When busy hours end the feeder releases them, as any task whose time has come.
    """

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        clock: Clock,
        hours: Mapping[str, Windows],
        pace_of: PaceOf,
    ) -> None:
        """`hours`: busy hours by model."""
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._hours = hours
        self._pace_of = pace_of

    def tick(self) -> int:
        """Do both. Returns how many rows moved."""
        now = self._clock.now()
        moved = sum(self._hold(model, hours, now) for model, hours in self._hours.items())
        started = sum(
            self._start(one, now) for one in self._database.read(off_peak.off_peak_queues) if one.deadlines
        )
        if started:
            self._publisher.wake()
        return moved + started

    def _hold(self, model: str, hours: Windows, now: float) -> int:
        if not hours.is_busy(now):
            return 0
        until = hours.quiet_from(now)
        held = self._database.write(
            lambda conn: off_peak.hold_for_window(conn, model, until, _OFF_PEAK_AT_ONCE)
        )
        if held:
            self._publisher.forget(held)
        return len(held)

    def _start(self, one: off_peak.OffPeakQueue, now: float) -> int:
        pace = self._pace_of(one.queue, one.model) or UNKNOWN_PACE
        number = must_start(one.deadlines, one.count, one.backlog, pace, now)
        if not number:
            return 0
        until = one.deadlines[number - 1]
        return self._database.write(
            lambda conn: off_peak.start_early(conn, one.queue, until, now, _OFF_PEAK_AT_ONCE)
        )
