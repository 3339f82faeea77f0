"""Write the audit log: calls are gathered and written twice a second, administrative acts before they are answered."""

from __future__ import annotations

import threading
from collections import deque

import structlog

from app.db.audit import write_audit
from app.db.database import Database
from app.domain.audit import Entry
from app.domain.errors import PenstockError

log = structlog.get_logger("penstock.audit")

EVERY_SECONDS = 0.5
MOST = 50_000  # entries held while the database is away; beyond it the oldest are dropped, and that is logged
_AT_ONCE = 1_000


class RecordAudit:
    """One for each process. Its thread starts with the first entry, so that it may be made before a fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: deque[Entry] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def add(self, entry: Entry) -> None:
        """Take an entry; it is written soon."""
        with self._lock:
            if len(self._entries) >= MOST:
                self._entries.popleft()
                self._dropped += 1
            self._entries.append(entry)
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()

    def add_now(self, entry: Entry) -> None:
        """Write an entry, and whatever waits before it. While the database is away it waits with the others."""
        self.add(entry)
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._writing:
            while self._write_some():
                pass

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._stop.set()
        self.flush()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.flush()

    def _write_some(self) -> bool:
        with self._lock:
            entries = [self._entries.popleft() for _ in range(min(_AT_ONCE, len(self._entries)))]
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("audit entries were dropped: the database was away for too long", count=dropped)
        if not entries:
            return False
        try:
            self._database.write(lambda conn: write_audit(conn, entries))
        except PenstockError as error:
            with self._lock:
                self._entries.extendleft(reversed(entries))
            log.warning("the audit log waits for the database", reason=type(error).__name__)
            return False
        return True
