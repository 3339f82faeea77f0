"""Give tasks back to the feeder whose messages are gone, however often the database has to be asked."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from app.platform.database import Database
from app.tasks.ports import BacklogPublisher
from app.tasks.store import feeding


class RefeedTasks:
    """What Redis said once, kept until the database knows. Locked; may be used by many threads.

    The dispatcher's turn only remembers: a database that does not answer must not cost a leader its lead.
    """

    def __init__(self, database: Database, reservoir: BacklogPublisher) -> None:
        self._database = database
        self._reservoir = reservoir
        self._lock = threading.Lock()
        self._gone: set[str] = set()

    def remember(self, task_ids: Iterable[str]) -> None:
        """Have these fed again by the next `flush`. Waits for nothing."""
        if ids := set(task_ids):
            with self._lock:
                self._gone |= ids

    def flush(self) -> None:
        """Feed again what is remembered. Raises DatabaseUnreachable: it stays remembered then."""
        with self._lock:
            gone, self._gone = self._gone, set()
        if not gone:
            return
        try:
            self._database.write(lambda conn: feeding.mark_unqueued(conn, sorted(gone)))
        except BaseException:
            self.remember(gone)
            raise
        self._reservoir.ring()
