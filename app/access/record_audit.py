"""Write the audit log: calls are gathered and written twice a second, administrative acts before they are answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import structlog

from app.access.domain.audit import AuditEntry
from app.access.store.audit import write_audit
from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import PenstockError

log = structlog.get_logger("penstock.audit")

EVERY_SECONDS = 0.5
MOST = 50_000  # entries held while the database is away; beyond it the oldest are dropped, and that is logged
_AT_ONCE = 1_000


class RecordAudit:
    """One for each process. Its thread starts with the first entry, so that it may be made before a fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: deque[AuditEntry] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._loop = BackgroundLoop("audit", self.flush, every=EVERY_SECONDS, at_once=False)
        self._dropped = 0

    def add(self, entry: AuditEntry) -> None:
        """Take an entry; it is written soon."""
        with self._lock:
            if len(self._entries) >= MOST:
                self._entries.popleft()
                self._dropped += 1
            self._entries.append(entry)
        self._loop.start()

    def add_now(self, entry: AuditEntry) -> None:
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
        self._loop.stop()
        self.flush()
        self._loop.join()

    def _write_some(self) -> bool:
        with self._lock:
            entries = [self._entries.popleft() for _ in range(min(_AT_ONCE, len(self._entries)))]
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("audit entries were dropped: the database was away for too long", count=dropped)
        if not entries:
            return False
        try:
            self._write(entries)
        except PenstockError as error:
            with self._lock:
                self._entries.extendleft(reversed(entries))
            log.warning("the audit log waits for the database", reason=type(error).__name__)
            return False
        return True

    def _write(self, entries: Sequence[AuditEntry]) -> None:
        """Write them; one that cannot be is left out, and does not keep the others. Raises PenstockError."""
        try:
            self._database.write(lambda conn: write_audit(conn, entries))
        except PenstockError:
            raise
        except Exception as error:  # noqa: BLE001 - the database took the others
            if len(entries) == 1:
                log.error(
                    "an audit entry cannot be written", action=entries[0].action, error=type(error).__name__
                )
                return
            for entry in entries:
                self._write([entry])
