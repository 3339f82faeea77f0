"""Which request waits for which task: noted in the database, so that a repeat finds the task whose request is gone.

A process beats while it holds connections. When it dies, the leader frees its calls; so does a repeat that looks for
one of them, in case the leader has died with it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping

from sqlalchemy import Connection

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.heartbeat_monitor import HeartbeatMonitor
from app.platform.ports import Clock
from app.submission.store import api_processes, waiting_calls
from app.submission.store.waiting_calls import WaitingCall

BEAT_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.25
GRACE_SECONDS = (
    10.0  # in which a client that repeats by itself has come again; the OpenAI clients take 8 at most
)
_FIND_SECONDS = 20.0  # how long a repeat looks for its task: by then a dead process has been noticed


class HoldConnections:
    """The connections of one process."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        grace: float = GRACE_SECONDS,
        look_every: float = LOOK_EVERY_SECONDS,
    ) -> None:
        """`look_every`: seconds between two looks for the task of a repeat."""
        self.id = f"holder_{uuid.uuid4().hex}"
        self._database = database
        self._clock = clock
        self._grace = grace
        self._look_every = look_every
        self._lock = threading.Lock()
        self._loop = BackgroundLoop(
            "hold-connections",
            self.beat,
            every=BEAT_SECONDS,
            at_once=False,
            backoff=(BEAT_SECONDS, BEAT_SECONDS),
        )
        self._begun = False
        self._answered: list[tuple[str, str]] = []

    def new_call(self, task_id: str, client_id: str, fingerprint: str) -> WaitingCall:
        """A call to store with its task. Raises DatabaseUnreachable."""
        self.start()
        now = self._clock.now()
        return WaitingCall(task_id, client_id, fingerprint, uuid.uuid4().hex, self.id, now)

    def find(self, client_id: str, fingerprint: str) -> WaitingCall | None:
        """Take over the task that an earlier try of this request has made; None when there is none.

        While one is on record that still has a connection, wait: the news of its end may be on the way, or the
        process that held it is dead. Raises DatabaseUnreachable.
        """
        self.start()
        connection, until = uuid.uuid4().hex, self._clock.monotonic() + _FIND_SECONDS
        silence = HeartbeatMonitor()
        while True:
            task_id = self._database.write(
                lambda conn: waiting_calls.attach(conn, client_id, fingerprint, connection, self.id)
            )
            if task_id is not None:
                return WaitingCall(task_id, client_id, fingerprint, connection, self.id, self._clock.now())
            held = self._database.read(lambda conn: waiting_calls.holders_of(conn, client_id, fingerprint))
            at = self._clock.monotonic()
            if not held or at >= until:
                return None
            dead = _dead({name: beat for name, beat in held.items() if name and name != self.id}, silence, at)
            if dead:
                self._free(client_id, fingerprint, dead)
            elif self._loop.wait(self._look_every):
                return None

    def _free(self, client_id: str, fingerprint: str, dead: list[str]) -> None:
        abandon_at = self._clock.now() + GRACE_SECONDS
        self._database.write(
            lambda conn: waiting_calls.free_of_dead(conn, client_id, fingerprint, dead, abandon_at)
        )

    def let_go(self, call: WaitingCall, *, repeats: bool) -> None:
        """The connection is gone. What nobody takes over is given up: at once, if its client does not repeat."""
        abandon_at = self._clock.now() + (self._grace if repeats else 0.0)
        try:
            self._database.write(
                lambda conn: waiting_calls.free(conn, call.task_id, call.connection, abandon_at)
            )
        except DatabaseUnreachable:
            return

    def answered(self, call: WaitingCall) -> None:
        """The answer was sent: nobody will come again. Written down with the next beat."""
        with self._lock:
            self._answered.append((call.task_id, call.connection))

    def start(self) -> None:
        """Make this process known and begin to beat, unless it does. Raises DatabaseUnreachable."""
        with self._lock:
            if self._begun or self._loop.stopping:
                return
            self._database.write(lambda conn: api_processes.beat(conn, self.id, self._clock.now()))
            self._begun = True
            self._loop.start()

    def close(self) -> None:
        """Say goodbye: calls that were not answered are free from now on."""
        self._loop.close()
        if self._begun:
            self.beat(last=True)

    def beat(self, *, last: bool = False) -> None:
        """Say that this process lives, and forget what was answered. A database out of reach is asked again later."""
        with self._lock:
            answered, self._answered = self._answered, []

        def say(conn: Connection) -> None:
            waiting_calls.forget(conn, answered)
            if last:
                api_processes.drop(conn, [self.id])
            else:
                api_processes.beat(conn, self.id, self._clock.now())

        try:
            self._database.write(say)
        except DatabaseUnreachable:
            with self._lock:
                self._answered += answered


def _dead(others: Mapping[str, int | None], silence: HeartbeatMonitor, at: float) -> list[str]:
    """Which of these processes are dead: silent for long, or on record no more."""
    gone = [name for name, beat in others.items() if beat is None]
    return [*gone, *silence.look({name: beat for name, beat in others.items() if beat is not None}, at)]
