"""Find processes that are dead: silent for long, while they could have beaten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.heartbeat_monitor import HeartbeatMonitor

Beats = Callable[[Connection], Mapping[str, int]]
Touch = Callable[[Connection, Collection[str]], object]


def find_dead(
    database: Database, silence: HeartbeatMonitor, beats: Beats, touch: Touch, at: float
) -> list[str]:
    """Look at all beats, at an instant of the monotonic clock; gives back who is dead.

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
