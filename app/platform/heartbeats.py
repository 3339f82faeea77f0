"""Heartbeats: when a process that stopped sending them counts as dead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable

DEAD_SECONDS = 15.0  # of successful looks without another beat
_LONGEST_LOOK = 2.0  # a pause between looks counts as this much at most: a frozen observer kills nobody


class HeartbeatMonitor:
    """What one observer has seen of the heartbeats of others."""

    def __init__(self, dead_seconds: float = DEAD_SECONDS) -> None:
        """`dead_seconds`: of silence, after which a process is dead."""
        self._dead_seconds = dead_seconds
        self._beats: Mapping[str, int] = {}
        self._silent: dict[str, float] = {}
        self._looked_at: float | None = None

    def look(self, beats: Mapping[str, int], at: float) -> list[str]:
        """Take in all beats as they stand; returns who is dead. `at` is monotonic, in seconds."""
        passed = 0.0 if self._looked_at is None else min(_LONGEST_LOOK, at - self._looked_at)
        self._looked_at = at
        self._silent = {
            name: self._silent.get(name, 0.0) + passed if self._beats.get(name) == beat else 0.0
            for name, beat in beats.items()
        }
        self._beats = dict(beats)
        return self._silent_for(self._dead_seconds)

    @property
    def overdue(self) -> list[str]:
        """Who has been silent for half of that time, and should have beaten if it could."""
        return self._silent_for(self._dead_seconds / 2)

    def excuse(self) -> None:
        """Nobody could have beaten: everybody's silence counts from nothing."""
        self._silent = {}

    def _silent_for(self, seconds: float) -> list[str]:
        return [name for name, silent in self._silent.items() if silent >= seconds]


Beats = Callable[[Connection], Mapping[str, int]]
Touch = Callable[[Connection, Collection[str]], object]


def find_dead(
    database: Database, silence: HeartbeatMonitor, beats: Beats, touch: Touch, at: float
) -> list[str]:
    """Look at all beats, at an instant of the monotonic clock; returns who is dead.

    A database whose disk is full still answers reads, and takes no beat. So while somebody is overdue, every look
    writes to his row what stands there already (`touch`): where that fails, nobody's silence counts.

    Raises DatabaseUnreachable.
    """
    dead = silence.look(database.read(beats), at)
    overdue = silence.overdue
    if overdue:
        try:
            database.write(lambda conn: touch(conn, overdue))
        except DatabaseUnreachable:
            silence.excuse()
            raise
    return dead
