"""Repair what crashes left behind. The leader's reconciler thread runs each of these every second, each bounded."""

from __future__ import annotations

import structlog

from app.dispatching import store
from app.execution.store import workers
from app.pacing.store.pacing_store import RedisPacingStore
from app.pacing.store.permits import RedisPermits
from app.platform.background_loop import Cooldown
from app.platform.database import Database
from app.platform.heartbeats import HeartbeatMonitor, find_dead
from app.platform.ports import Clock
from app.tasks.domain.attempt import Outcome, Settlement
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store import feeding

log = structlog.get_logger("penstock.dispatcher")

SETTLED = 5.0  # seconds after queueing until a row is checked: what is in transit has arrived by then
CLAIMED = 10.0  # seconds after release: a permit that is not claimed by then never will be
PAGE = 1000
PASS_EVERY = 60.0  # seconds between passes over all queued rows
WORKER_SILENCE = 30.0  # seconds of successful checks without a heartbeat: three heartbeats
ORPHAN_SECONDS = 30.0  # seconds for which a lost worker's calls count as still running upstream


class QueuedRows:
    """Compares rows marked as queued with places and permits: those that have neither are queued again."""

    def __init__(self, database: Database, truth: RedisPacingStore, clock: Clock) -> None:
        self._database = database
        self._truth = truth
        self._clock = clock
        self._after = (0.0, 0)
        self._pass = Cooldown(PASS_EVERY)

    def tick(self) -> int:
        """Check one page. Returns how many rows were repaired."""
        now = self._clock.now()
        if (
            self._after[0] > now
        ):  # the clock went back: what is queued from now on comes before what was checked
            self._after = (0.0, 0)
        page = self._database.read(lambda c: store.fed_page(c, self._after, now - SETTLED, PAGE))
        if not page:
            self._begin_again(now)
            return 0
        self._after = (page[-1].fed_at, page[-1].seq)
        placed = self._truth.placed([row.task_id for row in page])
        missing = [row.task_id for row, there in zip(page, placed, strict=True) if not there]
        if missing:
            self._database.write(lambda c: feeding.mark_unqueued(c, missing))
        return len(missing)

    def _begin_again(self, now: float) -> None:
        """Start another pass when it is due: rows that were fine may be lost since.

        Rows queued by a clock that was ahead would not be checked before that instant, so they are dated back.
        """
        if not self._pass.ready(self._clock.monotonic()):
            return
        self._after = (0.0, 0)
        if self._database.write(lambda c: feeding.clamp_queued_at(c, now, SETTLED, PAGE)) == PAGE:
            self._pass.reset()


class RetriesAhead:
    """Finds retries that a clock that was ahead had postponed: they wait from now."""

    def __init__(self, database: Database, publisher: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._after: tuple[float, int] | None = None
        self._pass = Cooldown(PASS_EVERY)

    def tick(self) -> None:
        """Check one page of delayed retries; once all were checked, again in a minute. Raises DatabaseUnreachable."""
        if self._after is None and not self._pass.ready(self._clock.monotonic()):
            return
        now = self._clock.now()
        self._after = after = self._after or (now + SETTLED, 0)
        self._after = self._database.write(lambda c: feeding.correct_postponed(c, now, SETTLED, after, PAGE))
        if self._after is None:
            self._publisher.wake()


class Expiry:
    """Ends tasks past their deadline as `expired`."""

    def __init__(self, database: Database, publisher: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._publisher = publisher
        self._clock = clock

    def tick(self) -> int:
        """Expire one page. Returns how many tasks."""
        now = self._clock.now()
        ids = self._database.write(lambda c: store.expire(c, now, PAGE))
        if ids:
            self._publisher.forget(ids)
            self._publisher.announce(ids)
        return len(ids)


class LostWorkers:
    """Finds workers without a heartbeat: their rows are queued again, their calls count as running a while longer."""

    def __init__(
        self,
        database: Database,
        truth: RedisPacingStore,
        publisher: BacklogPublisher,
        clock: Clock,
        meter: Meter | None = None,
        silence: float = WORKER_SILENCE,
    ) -> None:
        """`silence`: seconds without a heartbeat after which a worker is lost."""
        self._meter = meter or NoMeter()
        self._silence = HeartbeatMonitor(silence)
        self._database = database
        self._truth = truth
        self._publisher = publisher
        self._clock = clock

    def tick(self) -> int:
        """Check heartbeats. Returns how many rows were queued again."""
        at = self._clock.monotonic()
        dead = find_dead(self._database, self._silence, workers.beats, workers.touch, at)
        return sum(self._recover(worker) for worker in dead)

    def _recover(self, worker: str) -> int:
        lost = 0
        while rows := self._lose(worker):
            self._truth.orphan_permits([(row.task_id, row.release) for row in rows], ORPHAN_SECONDS)
            lost += len(rows)
            for row in rows:
                self._meter.lost(row.upstream_model, row.key)
        log.warning("a worker is lost: no heartbeat", worker=worker, calls=lost)
        self._database.write(lambda c: workers.ended(c, worker, self._clock.now()))
        self._truth.drop_worker(worker)
        self._publisher.announce(())
        return lost

    def _lose(self, worker: str) -> list[store.RunningRow]:
        return self._database.write(lambda c: store.lose(c, worker, self._clock.now(), PAGE))


class EndedPermits:
    """Ends permits whose task has ended in the database: the worker died after recording and before releasing them."""

    def __init__(self, database: Database, truth: RedisPacingStore, permits: RedisPermits) -> None:
        self._database = database
        self._truth = truth
        self._permits = permits
        self._cursor = 0
        self._suspects: set[tuple[str, int]] = set()

    def tick(self) -> int:
        """Check one page; a permit ends when two passes agree. Returns how many ended."""
        self._cursor, page = self._truth.permits_page(self._cursor, CLAIMED)
        if not page:
            return 0
        found = self._database.read(lambda c: store.releases_of(c, list(page)))
        over = {(task, release) for task, release in page.items() if found.get(task) != ("running", release)}
        ended = over & self._suspects
        self._suspects = (self._suspects - {(task, release) for task, release in page.items()}) | (
            over - ended
        )
        if ended:
            self._permits.settle([Settlement(task, release, Outcome.LOST) for task, release in ended])
        return len(ended)
