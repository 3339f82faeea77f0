"""A worker process's word to the leader through the database: it lives, and this is what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from app.execution.in_flight import CallsInFlight, WorkerReadiness
from app.execution.store import workers
from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
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
