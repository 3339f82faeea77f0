"""Rows that a transaction is about to change: read with a lock that lasts until it ends.

Every transaction locks in one order, so that processes cannot deadlock: batches by id, then tasks by seq, then the
budget use of clients. Only the holder of a batch's row may end its tasks or move them out of hold 2.
SQLite has one writer at a time, and ignores the locks.

Rows wanted by id must be looked up by id whatever the statistics say: a backlog that arrived a moment ago is in none
yet, and an index believed empty would be read from end to end. So their state is compared by `has_status` and their
owner by `belongs_to`, which fit no index, and updates join the seq of locked rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import CTE, ColumnElement, Connection, FromClause, Row, Select, Text, bindparam, select, text

from app.platform.dialects import ROWS, encode, recordset
from app.tasks.domain.task import Status
from app.tasks.store.tables import batch, task

LockedBatches = dict[str, Row[Any]]

_FACTS: Sequence[ColumnElement[Any]] = (
    task.c.seq,
    task.c.id,
    task.c.client_id,
    task.c.batch_id,
    task.c.model,
    task.c.step,
    task.c.expires_at,
    task.c.cache_key,
    task.c.cache_look,
    task.c.cache_seconds,
    task.c.leads,
    task.c.status,
    task.c.hold,
    task.c.attempts,
    task.c.lost,
    task.c.cancel_requested,
    task.c.callback_url,
    task.c.estimate,
    task.c.worker,
    task.c.release,
    task.c.claimed_at,
    task.c.key,
    task.c.account,
    task.c.upstream_model,
)


def lock_batches(conn: Connection, ids: Iterable[str | None]) -> LockedBatches:
    """Lock these batches; None and unknown ids are left out."""
    wanted = [{"id": name} for name in sorted({name for name in ids if name is not None})]
    if not wanted:
        return {}
    return {row.id: row for row in conn.execute(_batches(), {ROWS: encode(wanted)})}


def lock_tasks(conn: Connection, ids: Iterable[str]) -> dict[str, Row[Any]]:
    """Lock these tasks; unknown ids are left out."""
    wanted = encode({"id": name} for name in ids)
    return {row.id: row for row in conn.execute(_tasks(), {ROWS: wanted})}


def lock_waiting(conn: Connection, batch_id: str, limit: int) -> Sequence[Row[Any]]:
    """Lock up to `limit` queued tasks of a batch by line, which is also the order of their seq."""
    waiting = select(*_FACTS).where(task.c.batch_id == batch_id, has_status(Status.QUEUED))
    return conn.execute(waiting.order_by(task.c.batch_index).limit(limit).with_for_update(of=task)).all()


def has_status(status: Status) -> ColumnElement[bool]:
    """Whether a row found by its id has this status."""
    return task.c.status.concat("") == status


def belongs_to(client_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a row found by its id belongs to this client."""
    return task.c.client_id.concat("") == client_id


def assume_few(wanted: FromClause) -> ColumnElement[bool]:
    """True for every row of a recordset with an `id`, and makes PostgreSQL expect one row instead of a hundred.

    Otherwise a plan made while the tables were small would read a whole index rather than look up a hundred rows, and
    would be kept when the tables have grown.
    """
    return wanted.c.id.concat("") == wanted.c.id


def lock_in_order(wanted: FromClause, *conditions: ColumnElement[bool]) -> CTE:
    """The seq of the wanted tasks that meet all conditions, locked in order, for an UPDATE to join."""
    found = select(task.c.seq).join(wanted, wanted.c.id == task.c.id).where(*conditions)
    return found.order_by(task.c.seq).with_for_update(of=task).cte("locked")


def first_rows(condition: str, *order: ColumnElement[Any]) -> CTE:
    """The seq of the first `:most` rows of a partial index, for an UPDATE to join.

    Rows locked by another transaction are skipped.
    """
    chosen = select(task.c.seq).where(text(condition)).order_by(*order).limit(bindparam("most"))
    return chosen.with_for_update(of=task, skip_locked=True).cte("chosen")


@cache
def _batches() -> Select[Any]:
    wanted = recordset(id=Text())
    return (
        select(batch).join(wanted, wanted.c.id == batch.c.id).order_by(batch.c.id).with_for_update(of=batch)
    )


@cache
def _tasks() -> Select[Any]:
    wanted = recordset(id=Text())
    found = select(*_FACTS).join(wanted, wanted.c.id == task.c.id)
    return found.order_by(task.c.seq).with_for_update(of=task)
