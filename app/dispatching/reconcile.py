"""Put right what crashes left behind. The leader does each of these every second, each bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from app.dispatching import store
from app.dispatching.periodic import Cooldown
from app.execution.store import workers
from app.pacing.ports import Permits
from app.platform.database import Database
from app.platform.heartbeats import HeartbeatMonitor, find_dead
from app.platform.ports import Clock
from app.tasks.domain.attempt import Outcome, Settlement
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store import feeding

log = structlog.get_logger("penstock.dispatcher")

SETTLED = 5.0  # seconds after feeding until a row is checked: what is on its way has arrived by then
CLAIMED = 10.0  # seconds after release by which a permit's claim has been made, or never will be
PAGE = 1000
PASS_EVERY = 60.0  # seconds between passes over everything fed
WORKER_SILENCE = 30.0  # seconds of successful looks without a beat: three beats
GHOST = 30.0  # seconds for which a lost worker's calls are taken to run on upstream


class Truth(Protocol):
    """What the gate holds, to be compared with the database."""

    def placed(self, task_ids: Sequence[str]) -> list[bool]:
        """Whether each task has a place or a permit."""

    def permits_page(self, cursor: int, age: float) -> tuple[int, dict[str, int]]:
        """Some redeemed permits older than `age` seconds, and the next cursor."""

    def bury(self, releases: Sequence[tuple[str, int]], seconds: float) -> None:
        """Free lost workers' tasks; their calls keep their places in the quotas for some seconds."""

    def drop_worker(self, worker: str) -> None:
        """Forget a worker's report."""


class FedRows:
    """Rows that are said to be fed, against places and permits: who is in neither is fed again."""

    def __init__(self, database: Database, truth: Truth, clock: Clock) -> None:
        self._database = database
        self._truth = truth
        self._clock = clock
        self._after = (0.0, 0)
        self._pass = Cooldown(PASS_EVERY)

    def tick(self) -> int:
        """Check one page. Gives back how many rows were put right."""
        now = self._clock.now()
        if self._after[0] > now:  # the clock went back: what is fed from now on comes before what was checked
            self._after = (0.0, 0)
        page = self._database.read(lambda c: store.fed_page(c, self._after, now - SETTLED, PAGE))
        if not page:
            self._begin_again(now)
            return 0
        self._after = (page[-1].fed_at, page[-1].seq)
        placed = self._truth.placed([row.task_id for row in page])
        astray = [row.task_id for row, there in zip(page, placed, strict=True) if not there]
        if astray:
            self._database.write(lambda c: feeding.mark_unqueued(c, astray))
        return len(astray)

    def _begin_again(self, now: float) -> None:
        """Another pass over everything, when it is due: what was fine may be lost since.

        What was fed by a clock that was ahead is not looked at before that instant comes, so it is dated back.
        """
        if not self._pass.ready(self._clock.monotonic()):
            return
        self._after = (0.0, 0)
        if self._database.write(lambda c: feeding.clamp_queued_at(c, now, SETTLED, PAGE)) == PAGE:
            self._pass.reset()


class RetriesAhead:
    """Tasks that wait for their next try since a clock that was ahead: they wait from now. Owned by the healer."""

    def __init__(self, database: Database, reservoir: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._reservoir = reservoir
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
            self._reservoir.ring()


class Expiry:
    """Tasks past their deadline end as `expired`."""

    def __init__(self, database: Database, reservoir: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._reservoir = reservoir
        self._clock = clock

    def tick(self) -> int:
        """Expire one page. Gives back how many."""
        now = self._clock.now()
        ids = self._database.write(lambda c: store.expire(c, now, PAGE))
        if ids:
            self._reservoir.forget(ids)
            self._reservoir.announce(ids)
        return len(ids)


class LostWorkers:
    """Workers whose beat stands still: their rows go back, their slots stay taken a while more."""

    def __init__(
        self,
        database: Database,
        truth: Truth,
        reservoir: BacklogPublisher,
        clock: Clock,
        meter: Meter | None = None,
        silence: float = WORKER_SILENCE,
    ) -> None:
        """`silence`: seconds without a beat after which a worker is lost."""
        self._meter = meter or NoMeter()
        self._silence = HeartbeatMonitor(silence)
        self._database = database
        self._truth = truth
        self._reservoir = reservoir
        self._clock = clock

    def tick(self) -> int:
        """Look at the beats. Gives back how many rows went back."""
        at = self._clock.monotonic()
        dead = find_dead(self._database, self._silence, workers.beats, workers.touch, at)
        return sum(self._bury(worker) for worker in dead)

    def _bury(self, worker: str) -> int:
        lost = 0
        while rows := self._lose(worker):
            self._truth.bury([(row.task_id, row.release) for row in rows], GHOST)
            lost += len(rows)
            for row in rows:
                self._meter.lost(row.upstream_model, row.key)
        log.warning("a worker is lost: it has not beaten for long", worker=worker, calls=lost)
        self._database.write(lambda c: workers.ended(c, worker, self._clock.now()))
        self._truth.drop_worker(worker)
        self._reservoir.announce(())
        return lost

    def _lose(self, worker: str) -> list[store.RunningRow]:
        return self._database.write(lambda c: store.lose(c, worker, self._clock.now(), PAGE))


class EndedPermits:
    """Permits whose release has ended according to the database: the worker died between recording and settling."""

    def __init__(self, database: Database, truth: Truth, permits: Permits) -> None:
        self._database = database
        self._truth = truth
        self._permits = permits
        self._cursor = 0
        self._suspects: set[tuple[str, int]] = set()

    def tick(self) -> int:
        """Check one page; a permit ends when two passes found it so. Gives back how many ended."""
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
