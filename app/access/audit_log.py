"""The audit log: written, linked into a chain of digests, read, verified. Only retention removes entries."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, Row, Select, bindparam, delete, func, null, select, text, update

from app.access.domain.audit import (
    FIRST,
    RETENTION,
    ChainBreak,
    ChainCheck,
    ChainCopy,
    ChainEntry,
    ChainHead,
    Linked,
    RefusalFold,
    as_row,
    from_row,
    link,
)
from app.access.store.access_tables import UNCHAINED, audit, audit_head
from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.dialects import insert_or, insert_rows
from app.platform.domain.errors import PenstockError
from app.platform.domain.times import to_rfc3339


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries to read; None: any. Instants are Unix seconds."""

    since: float | None = None
    until: float | None = None
    client_id: str | None = None
    team: str | None = None
    key_id: str | None = None
    action: str | None = None  # or a prefix of it
    task_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as stored."""

    seq: int
    number: int | None  # None: not yet linked
    digest: str | None
    entry: ChainEntry


def write_audit(conn: Connection, entries: Sequence[ChainEntry]) -> None:
    """Append entries."""
    if entries:
        rows = [as_row(entry) for entry in entries]
        insert_rows(conn, audit, tuple(rows[0]), (tuple(row.values()) for row in rows))


def link_audit(conn: Connection, limit: int) -> int:
    """Link up to `limit` entries into the chain; returns how many. The lock serializes two leaders."""
    head = lock_head(conn)
    found = select(*_COLUMNS).where(text(UNCHAINED)).order_by(audit.c.seq).limit(limit)
    rows = conn.execute(found).all()
    linked = link(head, (from_row(row._asdict()) for row in rows))
    if not linked:
        return 0
    values = [
        {"at_seq": row.seq, "to_number": one.number, "to_digest": one.digest}
        for row, one in zip(rows, linked, strict=True)
    ]
    conn.execute(_LINK, values)
    conn.execute(update(audit_head).values(number=linked[-1].number, digest=linked[-1].digest))
    return len(linked)


def lock_head(conn: Connection) -> ChainHead:
    """The chain's last link, locked until this transaction ends."""
    first = {"id": 1, "number": 0, "digest": FIRST, "first": 1, "before": FIRST}
    conn.execute(insert_or(conn, audit_head).values(first).on_conflict_do_nothing())
    return _head(conn.execute(select(audit_head).with_for_update()).one())


def read_head(conn: Connection) -> ChainHead:
    """The chain's last link."""
    row = conn.execute(select(audit_head)).first()
    return ChainHead() if row is None else _head(row)


def read_links(conn: Connection, after: int, limit: int) -> list[Linked]:
    """The chain in order, starting after number `after`."""
    found = select(*_COLUMNS).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
    return [Linked(row.number, row.digest, from_row(row._asdict())) for row in conn.execute(found)]


def read_audit(conn: Connection, wanted: AuditFilter, after_seq: int, limit: int) -> list[StoredEntry]:
    """Entries in order, starting after `after_seq`."""
    rows = conn.execute(_matching(wanted, after_seq).order_by(audit.c.seq).limit(limit))
    return [StoredEntry(row.seq, row.number, row.digest, from_row(row._asdict())) for row in rows]


def newest_audit(conn: Connection, wanted: AuditFilter, limit: int) -> list[StoredEntry]:
    """The last entries, newest first."""
    rows = conn.execute(_matching(wanted, 0).order_by(audit.c.seq.desc()).limit(limit))
    return [StoredEntry(row.seq, row.number, row.digest, from_row(row._asdict())) for row in rows]


def forget_audit(conn: Connection, before: float, limit: int, now: float) -> int:
    """Delete up to `limit` entries older than `before` from the start of the chain; the rest still verifies.

    An entry of its own says so: a beginning that somebody else removed has none.

    Returns how many.
    """
    head = lock_head(conn)
    links = read_links(conn, head.first - 1, limit)
    old: list[Linked] = []
    for one in links:
        if one.entry.at >= before:
            break
        old.append(one)
    if old:
        conn.execute(delete(audit).where(audit.c.number <= old[-1].number))
        start = {"first": old[-1].number + 1, "before": old[-1].digest}
        conn.execute(update(audit_head).values(**start))
        write_audit(conn, [ChainEntry(now, RETENTION, details=orjson.dumps(start).decode())])
        while link_audit(conn, limit) == limit:
            continue
    return len(old)


def count_unlinked(conn: Connection) -> int:
    """How many entries the leader has yet to link."""
    return int(conn.execute(select(func.count()).select_from(audit).where(text(UNCHAINED))).scalar_one())


def _matching(wanted: AuditFilter, after_seq: int) -> Select[Any]:
    found = select(*_COLUMNS).where(audit.c.seq > after_seq)
    if wanted.since is not None:
        found = found.where(audit.c.at_ms >= round(wanted.since * 1000))
    if wanted.until is not None:
        found = found.where(audit.c.at_ms < round(wanted.until * 1000))
    for name in ("client_id", "team", "key_id", "task_id", "status"):
        value = getattr(wanted, name)
        if value is not None:
            found = found.where(audit.c[name] == value)
    if wanted.action is not None:
        found = found.where(audit.c.action.startswith(wanted.action, autoescape=True))
    return found


def _head(row: Row[Any]) -> ChainHead:
    return ChainHead(row.number, row.digest, row.first, row.before)


_COLUMNS = list(audit.c)
_LINK = (
    update(audit)
    .where(audit.c.seq == bindparam("at_seq"), audit.c.number.is_(null()))
    .values(number=bindparam("to_number"), digest=bindparam("to_digest"))
)


def as_json(kept: StoredEntry) -> dict[str, Any]:
    """An entry as exported, over HTTP and on the command line."""
    fields = dict(as_row(kept.entry))
    del fields["at_ms"]
    return {"number": kept.number, "digest": kept.digest, "at": to_rfc3339(kept.entry.at), **fields}


log = structlog.get_logger("penstock.audit")

EVERY_SECONDS = 0.5
MOST = 50_000  # entries buffered while the database is away; then the oldest are dropped, and that is logged
_AT_ONCE = 1_000


class RecordAudit:
    """Buffers entries and writes them twice a second. One for each process.

    Any thread may add; one background thread, started by the first entry (so after a fork), writes. `_writing` keeps
    writers in turn, so that entries stay in order.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entries: deque[ChainEntry] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._loop = BackgroundLoop("audit", self.flush, every=EVERY_SECONDS, at_once=False)
        self._dropped = 0
        self._folded = RefusalFold()

    def add(self, entry: ChainEntry) -> None:
        """Buffer an entry; it is written within half a second. Refusals of strangers are folded by the minute."""
        with self._lock:
            kept = self._folded.take(entry)
            if kept is None:
                return
            if len(self._entries) >= MOST:
                self._entries.popleft()
                self._dropped += 1
            self._entries.append(kept)
        self._loop.start()

    def add_now(self, entry: ChainEntry) -> None:
        """Write an entry and whatever is buffered before it. While the database is away it stays buffered."""
        self.add(entry)
        self.flush()

    def flush(self) -> None:
        """Write what is buffered, and what was folded in minutes that are over."""
        self._unfold(time.time())
        with self._writing:
            while self._write_some():
                pass

    def close(self) -> None:
        """Write what is buffered, then end the thread."""
        self._loop.stop()
        self._unfold(math.inf)
        self.flush()
        self._loop.join()

    def _unfold(self, now: float) -> None:
        with self._lock:
            self._entries.extend(self._folded.due(now))

    def _write_some(self) -> bool:
        with self._lock:
            entries = [self._entries.popleft() for _ in range(min(_AT_ONCE, len(self._entries)))]
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("audit entries dropped: the database was unreachable for too long", count=dropped)
        if not entries:
            return False
        try:
            self._write(entries)
        except PenstockError as error:
            with self._lock:
                self._entries.extendleft(reversed(entries))
            log.warning("audit log waits for the database", reason=type(error).__name__)
            return False
        return True

    def _write(self, entries: Sequence[ChainEntry]) -> None:
        """Write entries; one that cannot be written is skipped, and holds back no other. Raises PenstockError."""
        try:
            self._database.write(lambda conn: write_audit(conn, entries))
        except PenstockError:
            raise
        except Exception as error:  # noqa: BLE001 - the fault is in one of the entries
            if len(entries) == 1:
                log.error(
                    "audit entry cannot be written", action=entries[0].action, error=type(error).__name__
                )
                return
            for entry in entries:
                self._write([entry])


_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class ChainReport:
    """The result of checking the whole chain."""

    head: ChainHead
    entries: int  # links that verify
    unlinked: int  # entries not linked yet
    fault: ChainBreak | None

    @property
    def copy(self) -> ChainCopy:
        """What to keep elsewhere."""
        return ChainCopy(self.head.first, self.head.number, self.head.digest)


def entries(database: Database, wanted: AuditFilter, limit: int | None = None) -> Iterator[StoredEntry]:
    """Entries in order, read page by page; with `limit` only the newest."""
    if limit is not None and limit <= _PAGE:
        yield from reversed(database.read(partial(newest_audit, wanted=wanted, limit=limit)))
        return
    after, left = 0, limit
    while page := database.read(partial(read_audit, wanted=wanted, after_seq=after, limit=_PAGE)):
        yield from page if left is None else page[:left]
        after, left = page[-1].seq, None if left is None else left - len(page)
        if len(page) < _PAGE or (left is not None and left <= 0):
            return


def verify(database: Database, copy: ChainCopy | None = None) -> ChainReport:
    """Check the chain from its start to the head at the time of the call, and against a copy kept elsewhere."""
    head, unlinked = database.read(lambda conn: (read_head(conn), count_unlinked(conn)))
    check, after = ChainCheck(head, copy), head.first - 1
    while after < head.number:
        page = database.read(partial(read_links, after=after, limit=_PAGE))
        if not page:
            break
        for one in page:
            if one.number > head.number:
                break
            if fault := check.add(one):
                return ChainReport(head, check.seen, unlinked, fault)
        after = page[-1].number
    return ChainReport(head, check.seen, unlinked, check.end())
