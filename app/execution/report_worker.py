"""What a worker process reports: to the leader through the database, to the dispatcher through Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from app.execution.in_flight import CallsInFlight, WorkerReadiness
from app.execution.store import workers
from app.pacing.ports import WorkerReport
from app.pacing.store.permits import RedisPermits
from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, Unreachable
from app.platform.ports import Clock

log = structlog.get_logger("penstock.worker")

BEAT_SECONDS = 10.0
PING_SECONDS = 1.0  # between checks that the database answers

REPORT_SECONDS = 1.0
_CHECK_SECONDS = 0.05  # between checks of how many calls are held
LEAST = 25  # slots that an idle worker asks for; more follow at the next check
MOST = 300
_SHARE = 0.75  # seconds' worth of starts: well below the 2 s after which an unredeemed permit is reclaimed
_CHANGED = LEAST // 5  # a change of held calls that is reported at once


@dataclass(frozen=True, slots=True)
class WorkerInstance:
    """One run of one worker process; a restart is another instance."""

    id: str
    host: str
    pid: int


class BeatWorker:
    """Registers the process, beats every `beat_seconds`, and pings the database every second.

    Its state belongs to its loop's thread; `close` writes only after that has ended.
    """

    def __init__(
        self,
        instance: WorkerInstance,
        database: Database,
        in_flight: CallsInFlight,
        readiness: WorkerReadiness,
        clock: Clock,
        count_wire: Callable[[], tuple[int, int]] | None = None,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        """`count_wire`: upstream calls made so far, and connections opened for them."""
        self._instance = instance
        self._database = database
        self._in_flight = in_flight
        self._readiness = readiness
        self._clock = clock
        self._count_wire = count_wire
        self._beat_seconds = beat_seconds
        self._beat_due_at = 0.0  # monotonic
        self._loop = BackgroundLoop(
            "beat-worker", self.tick, every=PING_SECONDS, backoff=(PING_SECONDS, PING_SECONDS)
        )

    def start(self) -> None:
        """Start beating."""
        self._loop.start()

    def close(self, seconds: float) -> None:
        """Stop within about `seconds`, and sign off if the database answers."""
        if self._loop.close(seconds) and self._readiness.registered:
            self._write(self._sign_off)

    def tick(self) -> None:
        """Register, beat or ping, whichever is due."""
        if not self._readiness.registered:
            self._readiness.registered = self._write(self._register)
        elif self._clock.monotonic() >= self._beat_due_at:
            if self._write(self._beat):
                self._beat_due_at = self._clock.monotonic() + self._beat_seconds
        else:
            self._ping()

    def _register(self, conn: Connection) -> None:
        me = self._instance
        workers.register(conn, me.id, me.host, me.pid, self._clock.now())

    def _beat(self, conn: Connection) -> None:
        """A call whose row is no longer ours goes on: its result is offered all the same."""
        workers.beat(conn, self._instance.id, self._in_flight.pairs(), self._clock.now())
        self._save_wire_counts(conn)

    def _save_wire_counts(self, conn: Connection) -> None:
        if self._count_wire is not None:
            workers.count_wire(conn, self._instance.id, *self._count_wire())

    def _sign_off(self, conn: Connection) -> None:
        workers.ended(conn, self._instance.id, self._clock.now())
        self._save_wire_counts(conn)

    def _ping(self) -> None:
        try:
            self._database.ping()
            self._set_database_answers(True)
        except DatabaseUnreachable:
            self._set_database_answers(False)

    def _write(self, write: Callable[[Connection], object]) -> bool:
        try:
            self._database.write(write)
        except DatabaseUnreachable:
            self._set_database_answers(False)
            return False
        self._set_database_answers(True)
        return True

    def _set_database_answers(self, answers: bool) -> None:
        if answers != self._readiness.database_answers:
            log.warning("the database answers again" if answers else "the database does not answer")
        self._readiness.database_answers = answers


def prefetch_allowance(started: int, seconds: float) -> int:
    """Calls to ask for beyond those held, after `started` calls began in the last `seconds`.

    What is released must be redeemed within 2 s or it is reclaimed. A worker starts several hundred calls a second,
    on a busy machine a few dozen; given 1,000 at once it would let most of them expire.
    """
    rate = started / seconds if seconds > 0 else 0.0
    return round(min(MOST, max(LEAST, rate * _SHARE)))


class ReportSlots:
    """Reports which keys this worker serves and how many calls it can take: each second, at once on a large change.

    It offers what it can start in time, though its pool may be larger (`prefetch_allowance`). The counters belong to
    the loop's thread; other threads only set `_keys` and wake the loop.
    """

    def __init__(
        self,
        worker: str,
        keys: tuple[str, ...],
        slots: int,
        reports: RedisPermits,
        in_flight: CallsInFlight,
        readiness: WorkerReadiness,
        clock: Clock,
    ) -> None:
        """`slots`: the size of the pool."""
        self._worker = worker
        self._keys = keys
        self._slots = slots
        self._reports = reports
        self._in_flight = in_flight
        self._readiness = readiness
        self._clock = clock
        self._reported_at, self._reported_held = -REPORT_SECONDS, 0
        self._allowance, self._measured_at, self._measured = LEAST, clock.monotonic(), 0
        self._requested = threading.Event()
        self._requested.set()
        self._loop = BackgroundLoop(
            "report-slots",
            self._report_if_due,
            every=_CHECK_SECONDS,
            backoff=(_CHECK_SECONDS, REPORT_SECONDS),
        )

    def start(self) -> None:
        """Start reporting."""
        self._loop.start()

    def consume(self, keys: tuple[str, ...]) -> None:
        """Serve these keys from now on."""
        self._keys = keys
        self.at_once()

    def at_once(self) -> None:
        """Report without waiting for the next second."""
        self._requested.set()
        self._loop.wake()

    def close(self, seconds: float) -> None:
        """Announce that this worker takes no more tasks, if Redis answers."""
        self._loop.close(seconds)
        try:
            self._reports.leave(self._worker)
        except Unreachable:
            pass  # the last report expires by itself

    def tick(self) -> None:
        """Report what can be taken now: nothing while draining, or while the database does not answer."""
        self._measure()
        held = self._in_flight.count()
        pool = self._slots if self._readiness.takes_tasks else 0
        slots = min(pool, held + self._allowance)
        self._reported_at, self._reported_held = self._clock.monotonic(), held
        try:
            self._reports.report(WorkerReport(self._worker, self._keys, slots, held, pool))
        except Unreachable:
            pass  # the dispatcher could not release anything either

    def _measure(self) -> None:
        """Once a second: how fast calls are started."""
        now, started = self._clock.monotonic(), self._in_flight.started
        if now - self._measured_at >= REPORT_SECONDS:
            self._allowance = prefetch_allowance(started - self._measured, now - self._measured_at)
            self._measured_at, self._measured = now, started

    def _report_if_due(self) -> None:
        requested = self._requested.is_set()
        self._requested.clear()
        changed = abs(self._in_flight.count() - self._reported_held) >= _CHANGED
        if requested or changed or self._clock.monotonic() - self._reported_at >= REPORT_SECONDS:
            self.tick()
