"""Lines as the database has them, looked at every other second at most, however many ask."""

from __future__ import annotations

import threading

from app.pacing.domain.queue_position import QueuePosition
from app.pacing.store.lines import read_line
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock

KEPT = 2.0  # seconds
_MARKS = 5_000  # tasks of a line that are read: some milliseconds; those behind are reckoned
_LISTS = 1_000  # remembered at once


class Lines:
    """May be used by many threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, QueuePosition | None]] = {}
        self._came: dict[tuple[str, int], int] = {}

    def of(self, queue: str, step: int) -> QueuePosition | None:
        """A line as it stood lately; None while the database does not answer. Never raises."""
        now, key = self._clock.monotonic(), (queue, step)
        found = self._known.get(key)
        if found is not None and now < found[0]:
            return found[1]
        with self._lock:
            found = self._known.get(key)
            if found is None or now >= found[0]:
                if len(self._known) >= _LISTS:
                    self._known.clear()
                    self._came.clear()
                self._came.pop(key, None)
                found = self._known[key] = (now + KEPT, self._read(queue, step))
            return found[1]

    def coming(self, queue: str, step: int, due: float) -> int | None:
        """How many are before a task that comes now, those counted in that came since the line was looked at."""
        line = self.of(queue, step)
        if line is None:
            return None
        with self._lock:
            came = self._came[queue, step] = self._came.get((queue, step), -1) + 1
        return line.ahead_of_new(due) + came

    def _read(self, queue: str, step: int) -> QueuePosition | None:
        try:
            return self._database.read(lambda conn: read_line(conn, queue, step, _MARKS))
        except DatabaseUnreachable:
            return None
