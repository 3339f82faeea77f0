"""Give up tasks whose waiting request is gone and does not come again. The leader's chore."""

from __future__ import annotations

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.heartbeats import HeartbeatMonitor, find_dead
from app.platform.ports import Clock
from app.submission import hold_connections
from app.submission.hold_connections import GRACE_SECONDS
from app.tasks.domain.task import Status
from app.tasks.ports import BacklogPublisher
from app.tasks.store import transitions

_ORPHANS_EVERY = 5.0
_AT_ONCE = 200


class AbandonCalls:
    """A tick looks at the beats, frees what dead processes held, and cancels what nobody came for."""

    def __init__(self, database: Database, reservoir: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._reservoir = reservoir
        self._clock = clock
        self._silence = HeartbeatMonitor()
        self._orphans_at = 0.0

    def tick(self) -> int:
        """Gives back how many tasks were given up."""
        self._bury_dead()
        return self._give_up()

    def _bury_dead(self) -> None:
        at = self._clock.monotonic()
        dead = find_dead(self._database, self._silence, hold_connections.beats, hold_connections.touch, at)
        if dead or at >= self._orphans_at:
            self._orphans_at = at + _ORPHANS_EVERY
            self._free(dead)

    def _free(self, dead: list[str]) -> None:
        abandon_at = self._clock.now() + GRACE_SECONDS

        def free(conn: Connection) -> None:
            hold_connections.drop(conn, dead)
            hold_connections.free_orphans(conn, abandon_at)

        self._database.write(free)

    def _give_up(self) -> int:
        now = self._clock.now()
        due = self._database.read(lambda conn: hold_connections.abandoned(conn, now, _AT_ONCE))
        cancelled = [name for name, told in due.items() if self._cancel(name, told=told)]
        if cancelled:
            self._reservoir.forget(cancelled)
            self._reservoir.announce(cancelled)
        return len(cancelled)

    def _cancel(self, task_id: str, *, told: bool) -> bool:
        """Cancel a task unless a repeat was quicker; whether it ended by that. One with a callback goes on."""
        now = self._clock.now()

        def cancel(conn: Connection) -> bool:
            mine = hold_connections.drop_abandoned(conn, task_id)
            return mine and not told and transitions.cancel_by_id(conn, task_id, now) is Status.CANCELLED

        return self._database.write(cancel)
