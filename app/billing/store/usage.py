"""The ledger of usage. Money in pico-units.

Each transaction that ends tasks inserts entries and updates none, so that no row is hot and entries commit with the
ends they describe. `fold_usage` rolls them up by day; reports add up both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Select,
    Subquery,
    Table,
    Text,
    delete,
    func,
    select,
    text,
    union_all,
)

from app.billing.domain.usage import (
    FIGURES,
    NEWEST_CALLS,
    UsageEntry,
    UsageFilter,
    as_columns,
    day_of,
    from_columns,
    merge,
)
from app.platform.dialects import insert_or, insert_rows
from app.tasks.domain.attempt import Outcome
from app.tasks.store.tables import Serial, attempt, metadata, task

HEADING = ("day", "client_id", "model", "key", "account", "upstream_model", "currency")


def _figures() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default=text("0")) for name in FIGURES]


usage_entry = Table(
    "usage_entry",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    *(Column(name, Text, nullable=False) for name in HEADING),
    *_figures(),
)

usage_day = Table(
    "usage_day",
    metadata,
    *(Column(name, Text, primary_key=True) for name in HEADING),
    *_figures(),
    Index(None, "client_id", "day"),
)

USAGE = (*HEADING, *FIGURES)


def write_usage(conn: Connection, entries: Iterable[UsageEntry]) -> None:
    """Insert entries, one row per heading. Updates no row."""
    rows = usage_rows(entries)
    if rows:
        insert_rows(conn, usage_entry, USAGE, (tuple(row[name] for name in USAGE) for row in rows))


def usage_rows(entries: Iterable[UsageEntry]) -> list[dict[str, Any]]:
    """Entries as rows of the columns USAGE, one per heading."""
    return [as_columns(entry) for entry in merge(entries)]


def fold_usage(conn: Connection, limit: int) -> int:
    """Roll up to `limit` entries up into their days; returns how many. Call until fewer than `limit`.

    In one transaction, so that a report sees each entry exactly once. For one caller at a time.
    """
    oldest = select(usage_entry.c.seq).order_by(usage_entry.c.seq).limit(limit)
    chosen = conn.execute(oldest.with_for_update()).scalars().all()
    if not chosen:
        return 0
    gone = delete(usage_entry).where(usage_entry.c.seq.in_(chosen)).returning(*_of(usage_entry))
    entries = [from_columns(row._asdict()) for row in conn.execute(gone)]
    _add_to_days(conn, merge(entries))
    return len(entries)


def report(conn: Connection, wanted: UsageFilter) -> list[dict[str, Any]]:
    """The report as flat rows, sorted by its groups. One statement, so it is consistent."""
    both = union_all(_within(usage_entry, wanted), _within(usage_day, wanted)).subquery()
    by = [name for name in HEADING if name in wanted.by or name == "currency"]
    found = conn.execute(_sums(both, by).order_by(*(both.c[name] for name in by)))
    return [{name: _plain(value) for name, value in row._mapping.items()} for row in found]


def response_seconds(conn: Connection, wanted: UsageFilter) -> dict[tuple[str, ...], list[float]]:
    """The seconds of successful calls by the report's groups, among the newest NEWEST_CALLS attempts of the service."""
    begin, end = (datetime.fromisoformat(f"{day}T00:00+00:00") for day in (wanted.first_day, wanted.last_day))
    columns = {**{name: attempt.c[name] for name in _OF_ATTEMPTS}, "model": task.c.model}
    seconds = attempt.c.finished_at - func.coalesce(attempt.c.sent_at, attempt.c.started_at)
    rows = (
        select(seconds, attempt.c.finished_at, *(columns[name] for name in wanted.by if name != "day"))
        .select_from(attempt.join(task, task.c.id == attempt.c.task_id) if "model" in wanted.by else attempt)
        .where(attempt.c.seq > select(func.max(attempt.c.seq) - NEWEST_CALLS).scalar_subquery())
        .where(attempt.c.outcome == Outcome.SUCCEEDED)
        .where(attempt.c.finished_at >= begin.timestamp(), attempt.c.finished_at < end.timestamp() + 86400)
    )
    if wanted.client_id is not None:
        rows = rows.where(attempt.c.client_id == wanted.client_id)
    found: dict[tuple[str, ...], list[float]] = {}
    for took, at, *group in conn.execute(rows):
        named = iter(group)
        key = tuple(day_of(at) if name == "day" else next(named) for name in wanted.by)
        found.setdefault(key, []).append(took)
    return found


_OF_ATTEMPTS = ("client_id", "key", "account", "upstream_model")


def _within(table: Any, wanted: UsageFilter) -> Select[Any]:
    found = select(*_of(table)).where(table.c.day >= wanted.first_day, table.c.day <= wanted.last_day)
    return found if wanted.client_id is None else found.where(table.c.client_id == wanted.client_id)


def _sums(source: Subquery, by: Sequence[str]) -> Select[Any]:
    groups = [source.c[name] for name in by]
    return select(*groups, *(func.sum(source.c[name]).label(name) for name in FIGURES)).group_by(*groups)


def _plain(value: Any) -> Any:
    """PostgreSQL returns sums of big integers as decimals."""
    return value if isinstance(value, str) else int(value)


def _add_to_days(conn: Connection, entries: Sequence[UsageEntry]) -> None:
    if not entries:
        return
    rows = sorted(map(as_columns, entries), key=lambda row: [row[name] for name in HEADING])
    insert = insert_or(conn, usage_day)
    more = {name: usage_day.c[name] + insert.excluded[name] for name in FIGURES}
    conn.execute(insert.on_conflict_do_update(index_elements=list(HEADING), set_=more), rows)


def _of(table: Any) -> list[Any]:
    return [table.c[name] for name in USAGE]
