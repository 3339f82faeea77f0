"""Ring for waiters when their tasks end: at once by the news from Redis, within a second by the database."""

from __future__ import annotations

import threading

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.tasks.ports import Changes
from app.tasks.store.tasks import ended_among
from app.tasks.wait_for_task import Waiters

POLL_SECONDS = 1.0


class WatchEndings:
    """Two threads of the process, started by the first who waits (so that they are born after a fork)."""

    def __init__(self, waiters: Waiters, database: Database, changes: Changes | None) -> None:
        self._waiters = waiters
        self._database = database
        self._stop = threading.Event()
        self._loops = [
            BackgroundLoop(
                "poll-endings",
                self.poll_once,
                every=POLL_SECONDS,
                at_once=False,
                backoff=(POLL_SECONDS, POLL_SECONDS),
            )
        ]
        if changes is not None:
            listen = changes.listen
            self._loops.append(
                BackgroundLoop(
                    "listen-endings", lambda: listen(waiters.heard, self._stop), every=POLL_SECONDS
                )
            )

    def start(self) -> None:
        """Start the threads unless they run."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Send the waiters home and end the threads."""
        self._stop.set()
        self._waiters.close()
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join()

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
