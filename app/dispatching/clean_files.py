"""Drop files that nobody can see: expired and deleted ones, and uploads whose process has died. The leader's chore."""

from __future__ import annotations

from app.platform.database import Database
from app.platform.ports import Clock
from app.submission.store_file import drop_file
from app.tasks.store import files

EVERY_SECONDS = 60.0
_SURELY_DEAD = 2 * 3600.0  # seconds: no upload takes so long
_FILES = 5  # of one tick


class CleanFiles:
    """A tick does a bounded piece of it, once a minute."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._due_at = clock.monotonic()

    def tick(self) -> int:
        """Do a piece of it when it is due; gives back how many files went. Raises DatabaseUnreachable."""
        if self._clock.monotonic() < self._due_at:
            return 0
        self._due_at = self._clock.monotonic() + EVERY_SECONDS
        now = self._clock.now()
        self._database.write(lambda conn: files.hide_expired(conn, now, 100))
        gone = self._database.read(lambda conn: files.files_to_delete(conn, now - _SURELY_DEAD, _FILES))
        for seq in gone:
            drop_file(self._database, seq)
        return len(gone)
