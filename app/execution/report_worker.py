"""A worker process's word to the dispatcher each second: which keys it consumes, and how much it can take.

It can take what it could start in time, though its pool may be larger: see `start_room`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from app.execution.in_flight import CallsInFlight, WorkerReadiness
from app.execution.store import workers
from app.pacing.ports import WorkerReport
from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, Unreachable
from app.platform.ports import Clock

log = structlog.get_logger("penstock.worker")
T = TypeVar("T")

BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between looks at whether the database answers


@dataclass(frozen=True, slots=True)
class WorkerInstance:
    """One life of one worker process."""

    id: str
    host: str
    pid: int


class BeatWorker:
    """Registers the process, beats every `beat_seconds`, and looks each second whether the database answers."""

    def __init__(
        self,
        me: WorkerInstance,
        database: Database,
        held: CallsInFlight,
        state: WorkerReadiness,
        clock: Clock,
        wire: Callable[[], tuple[int, int]] | None = None,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        """`wire`: upstream calls made so far, and connections opened for them."""
        self._wire = wire
        self._beat_seconds = beat_seconds
        self._me = me
        self._database = database
        self._held = held
        self._state = state
        self._clock = clock
        self._beat_due_at = 0.0  # monotonic
        self._loop = BackgroundLoop(
            "beat-worker", self.tick, every=LOOK_SECONDS, backoff=(LOOK_SECONDS, LOOK_SECONDS)
        )

    def start(self) -> None:
        """Begin to beat."""
        self._loop.start()

    def close(self, seconds: float) -> None:
        """Stop beating, and say goodbye if the database answers within about so long."""
        if self._loop.close(seconds) and self._state.registered:
            self._try(self._goodbye)

    def tick(self) -> None:
        """Do what is due."""
        if not self._state.registered:
            me = self._me
            said = self._try(lambda conn: workers.register(conn, me.id, me.host, me.pid, self._clock.now()))
            self._state.registered = said
        elif self._clock.monotonic() >= self._beat_due_at:
            if self._try(self._beat):
                self._beat_due_at = self._clock.monotonic() + self._beat_seconds
        else:
            self._look()

    def _beat(self, conn: Connection) -> None:
        """What is held of rows that are not ours any more goes on: its result is offered all the same."""
        workers.beat(conn, self._me.id, self._held.pairs(), self._clock.now())
        self._count(conn)

    def _count(self, conn: Connection) -> None:
        if self._wire is not None:
            workers.count_wire(conn, self._me.id, *self._wire())

    def _goodbye(self, conn: Connection) -> None:
        workers.ended(conn, self._me.id, self._clock.now())
        self._count(conn)

    def _look(self) -> None:
        try:
            self._database.ping()
            self._answered(True)
        except DatabaseUnreachable:
            self._answered(False)

    def _try(self, write: Callable[[Connection], object]) -> bool:
        try:
            self._database.write(write)
        except DatabaseUnreachable:
            self._answered(False)
            return False
        self._answered(True)
        return True

    def _answered(self, answers: bool) -> None:
        if answers != self._state.database_answers:
            log.warning("the database answers again" if answers else "the database does not answer")
        self._state.database_answers = answers


LEAST = 25  # also what an idle worker asks for: more follows within a twentieth of a second
MOST = 300
_SHARE = 0.75  # seconds' worth: waits stay well below the 2 s


def prefetch_allowance(started: int, seconds: float) -> int:
    """Calls to ask for beyond those held, after so many were `started` in the last `seconds`."""
    rate = started / seconds if seconds > 0 else 0.0
    return round(min(MOST, max(LEAST, rate * _SHARE)))


EVERY_SECONDS = 1.0
_LOOK_SECONDS = 0.05  # between looks at how many are held
_CHANGED = LEAST // 5  # so many more or fewer held are told at once


class Reports(Protocol):
    """Where reports go."""

    def report(self, report: WorkerReport) -> None:
        """Tell the dispatcher. Raises Unreachable."""

    def leave(self, worker: str) -> None:
        """Say that this worker takes nothing more. Raises Unreachable."""


class ReportSlots:
    """Reports each second, and at once when much has changed."""

    def __init__(
        self,
        worker: str,
        keys: tuple[str, ...],
        slots: int,
        reports: Reports,
        held: CallsInFlight,
        state: WorkerReadiness,
        clock: Clock,
    ) -> None:
        """`slots`: the size of the pool."""
        self._worker = worker
        self._keys = keys
        self._slots = slots
        self._reports = reports
        self._held = held
        self._state = state
        self._clock = clock
        self._told_at, self._told_held = -EVERY_SECONDS, 0
        self._room, self._measured_at, self._measured = LEAST, clock.monotonic(), 0
        self._asked = threading.Event()
        self._asked.set()
        self._loop = BackgroundLoop(
            "report-slots", self._due, every=_LOOK_SECONDS, backoff=(_LOOK_SECONDS, EVERY_SECONDS)
        )

    def start(self) -> None:
        """Begin to report."""
        self._loop.start()

    def consume(self, keys: tuple[str, ...]) -> None:
        """From now on the queues of these keys are consumed."""
        self._keys = keys
        self.at_once()

    def at_once(self) -> None:
        """Something changed that should not wait for the next second."""
        self._asked.set()
        self._loop.ring()

    def close(self, seconds: float) -> None:
        """Say that this worker takes nothing more, if Redis answers."""
        self._loop.close(seconds)
        try:
            self._reports.leave(self._worker)
        except Unreachable:
            pass  # the report grows old by itself

    def _measure(self) -> None:
        """Once a second: how fast calls are started."""
        now, started = self._clock.monotonic(), self._held.started
        if now - self._measured_at >= EVERY_SECONDS:
            self._room = prefetch_allowance(started - self._measured, now - self._measured_at)
            self._measured_at, self._measured = now, started

    def tick(self) -> None:
        """Report what can be taken now: nothing while stopping, or while the database does not answer."""
        self._measure()
        held = self._held.count()
        slots = min(self._slots, held + self._room) if self._state.takes_tasks else 0
        self._told_at, self._told_held = self._clock.monotonic(), held
        try:
            self._reports.report(WorkerReport(self._worker, self._keys, slots, held))
        except Unreachable:
            pass  # so is everything else that the dispatcher could send us

    def _is_due(self) -> bool:
        changed = abs(self._held.count() - self._told_held) >= _CHANGED
        return changed or self._clock.monotonic() - self._told_at >= EVERY_SECONDS

    def _due(self) -> None:
        asked = self._asked.is_set()
        self._asked.clear()
        if asked or self._is_due():
            self.tick()
