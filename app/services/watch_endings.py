"""Ring for waiters when their tasks end: at once by the news from Redis, within a second by the database."""

from __future__ import annotations

import threading

import structlog

from app.db.database import Database
from app.db.tasks import ended_among
from app.domain.errors import DatabaseUnreachable
from app.services.ports import Changes
from app.services.wait_for_task import Waiters

POLL_SECONDS = 1.0

log = structlog.get_logger(__name__)


class WatchEndings:
    """Two threads of the process, started by the first who waits (so that they are born after a fork)."""

    def __init__(self, waiters: Waiters, database: Database, changes: Changes | None) -> None:
        self._waiters = waiters
        self._database = database
        self._changes = changes
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads unless they run."""
        if self._threads:
            return
        with self._lock:
            if self._threads or self._stop.is_set():
                return
            self._threads = [threading.Thread(target=self._poll, name="poll-endings", daemon=True)]
            if self._changes is not None:
                self._threads.append(
                    threading.Thread(
                        target=self._changes.listen,
                        args=(self._waiters.heard, self._stop),
                        name="listen-endings",
                        daemon=True,
                    )
                )
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """Send the waiters home and end the threads."""
        self._stop.set()
        self._waiters.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def poll_once(self) -> None:
        """One statement for all who wait, whatever their number; a database out of reach is asked again later."""
        waited = self._waiters.waited(POLL_SECONDS)
        if not waited:
            return
        try:
            ended = self._database.read(lambda conn: ended_among(conn, waited))
        except DatabaseUnreachable:
            return
        for object_id in ended:
            self._waiters.heard(object_id)

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.poll_once()
            except Exception:
                log.exception("poll_endings_failed")  # who waits must not lose this thread
