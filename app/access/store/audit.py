"""The audit log: entries are added, linked, read, never changed. Only retention takes from its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, null, select, text, update

from app.access.domain.audit import FIRST, AuditEntry, ChainHead, Linked, as_row, from_row, link
from app.access.store.access_tables import UNCHAINED, audit, audit_head
from app.platform.bulk import insert_rows
from app.platform.upsert import insert_or


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are asked for; None: any. Instants are Unix seconds."""

    since: float | None = None
    until: float | None = None
    client_id: str | None = None
    team: str | None = None
    key_id: str | None = None
    action: str | None = None  # or how it begins
    task_id: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry as it is stored."""

    seq: int
    number: int | None  # None: not yet linked
    digest: str | None
    entry: AuditEntry


def write_audit(conn: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries behind all others."""
    if entries:
        rows = [as_row(entry) for entry in entries]
        insert_rows(conn, audit, tuple(rows[0]), (tuple(row.values()) for row in rows))


def link_audit(conn: Connection, limit: int) -> int:
    """Put up to `limit` entries into the chain; gives back how many. Two leaders at once take turns."""
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
    """The chain's last link, for nobody else to change until this transaction ends."""
    first = {"id": 1, "number": 0, "digest": FIRST, "first": 1, "before": FIRST}
    conn.execute(insert_or(conn, audit_head).values(first).on_conflict_do_nothing())
    return _head(conn.execute(select(audit_head).with_for_update()).one())


def read_head(conn: Connection) -> ChainHead:
    """The chain's last link."""
    row = conn.execute(select(audit_head)).first()
    return ChainHead() if row is None else _head(row)


def read_links(conn: Connection, after: int, limit: int) -> list[Linked]:
    """The chain in order, beginning behind the place `after`."""
    found = select(*_COLUMNS).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
    return [Linked(row.number, row.digest, from_row(row._asdict())) for row in conn.execute(found)]


def read_audit(conn: Connection, wanted: AuditFilter, after_seq: int, limit: int) -> list[Kept]:
    """Entries in order, beginning behind `after_seq`."""
    rows = conn.execute(_matching(wanted, after_seq).order_by(audit.c.seq).limit(limit))
    return [Kept(row.seq, row.number, row.digest, from_row(row._asdict())) for row in rows]


def newest_audit(conn: Connection, wanted: AuditFilter, limit: int) -> list[Kept]:
    """The last entries, newest first."""
    rows = conn.execute(_matching(wanted, 0).order_by(audit.c.seq.desc()).limit(limit))
    return [Kept(row.seq, row.number, row.digest, from_row(row._asdict())) for row in rows]


def forget_audit(conn: Connection, before: float, limit: int) -> int:
    """Take up to `limit` linked entries from the chain's beginning that are older; what is left still holds."""
    head = lock_head(conn)
    links = read_links(conn, head.first - 1, limit)
    old: list[Linked] = []
    for one in links:
        if one.entry.at >= before:
            break
        old.append(one)
    if old:
        conn.execute(delete(audit).where(audit.c.number <= old[-1].number))
        conn.execute(update(audit_head).values(first=old[-1].number + 1, before=old[-1].digest))
    return len(old)


def count_unlinked(conn: Connection) -> int:
    """Entries that wait for the leader."""
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
