"""Retention: contents are erased, tasks and batches deleted, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, exists, null, or_, select, text, update

from app.tasks.domain.task import ENDS, BatchStatus, Status
from app.tasks.store.tables import DELETED, UNSTORED, attempt, batch, callback, delivery, task, task_content

_ENDS: list[Status] = sorted(ENDS)
_NOTHING = "{}"


@dataclass(frozen=True, slots=True)
class WalkProgress:
    """Progress of a walk over a table."""

    last: int | None  # None: it is at its end
    deleted: int


def erase_unstored(conn: Connection, ended_before: float, now: float, limit: int) -> int:
    """Erase the contents of unstored tasks: delivered ones at once, others that ended before an instant.

    Up to that instant, a result stays for a callback that is being delivered or may be replayed.
    """
    open_ = exists().where(callback.c.task_id == task.c.id, callback.c.status != "delivered")
    delivered = task.c.callback_url.is_not(None) & ~open_
    over = or_(delivered, task.c.finished_at < ended_before)
    found = select(task.c.seq).where(text(UNSTORED), over).order_by(task.c.finished_at).limit(limit)
    return _erase(conn, list(conn.execute(found).scalars()), now)


def mark_deleted(conn: Connection, client_id: str, task_id: str, now: float) -> bool:
    """Hide a task from now on, and erase its contents if it has ended; False: the client has no such task."""
    mine = (task.c.id == task_id) & (task.c.client_id == client_id) & task.c.deleted_at.is_(null())
    row = conn.execute(
        update(task).where(mine).values(deleted_at=now).returning(task.c.seq, task.c.status)
    ).first()
    if row is None:
        return False
    if Status(row.status).ended:
        _erase(conn, [row.seq], now)
    return True


def delete_marked(conn: Connection, limit: int) -> int:
    """Delete marked tasks that have ended; returns how many. Those with a budget reservation are settled first."""
    over = task.c.status.in_(_ENDS) & task.c.reserved_at.is_(None)
    found = select(task.c.seq, task.c.id).where(text(DELETED), over)
    rows = conn.execute(found.order_by(task.c.seq).limit(limit)).all()
    return _delete(conn, [row.seq for row in rows], [row.id for row in rows])


def delete_old(
    conn: Connection, after: int, before: float, own: Mapping[str, float], limit: int
) -> WalkProgress:
    """Walk up to `limit` tasks in order, and delete those that ended too long ago.

    `before` is the instant for most clients, `own` has those of others. The walk ends at a page on which all tasks are
    too young: later rows are younger still, and a backlog of a million is not read.
    """
    latest = max([before, *own.values()])
    columns = ("seq", "id", "client_id", "status", "created_at", "finished_at", "reserved_at")
    found = select(*(task.c[name] for name in columns))
    rows = conn.execute(found.where(task.c.seq > after).order_by(task.c.seq).limit(limit)).all()
    old = [
        row
        for row in rows
        if row.finished_at is not None
        and row.reserved_at is None
        and Status(row.status).ended
        and row.finished_at < own.get(row.client_id, before)
    ]
    deleted = _delete(conn, [row.seq for row in old], [row.id for row in old])
    more = len(rows) == limit and any(row.created_at < latest for row in rows)
    return WalkProgress(rows[-1].seq if more else None, deleted)


def delete_empty_batches(conn: Connection, after: int, before: float, limit: int) -> WalkProgress:
    """Walk up to `limit` batches in order, and delete ended ones of which no task is left.

    As in `delete_old`, the walk ends at a page on which all were created at `before` or later.
    """
    left = exists().where(task.c.batch_id == batch.c.id)
    found = select(batch.c.seq, batch.c.id, batch.c.status, batch.c.created_at, left.label("left"))
    rows = conn.execute(found.where(batch.c.seq > after).order_by(batch.c.seq).limit(limit)).all()
    empty = [row for row in rows if row.created_at < before and not row.left]
    gone = [row for row in empty if BatchStatus(row.status).ended]
    if gone:
        _delete_callbacks(conn, callback.c.batch_id.in_([row.id for row in gone]))
        conn.execute(delete(batch).where(batch.c.seq.in_([row.seq for row in gone])))
    more = len(rows) == limit and any(row.created_at < before for row in rows)
    return WalkProgress(rows[-1].seq if more else None, len(gone))


def _erase(conn: Connection, numbers: Sequence[int], now: float) -> int:
    """Erase prompt, result, metadata, and error messages of upstreams, which may quote a prompt."""
    if not numbers:
        return 0
    these = task.c.seq.in_(numbers)
    ids = select(task.c.id).where(these)
    conn.execute(
        update(task_content).where(task_content.c.seq.in_(numbers)).values(request=_NOTHING, result=None)
    )
    conn.execute(update(attempt).where(attempt.c.task_id.in_(ids)).values(error_message=None))
    gone = {"erased_at": now, "metadata": None, "error_message": None}
    conn.execute(update(task).where(these).values(gone))
    return len(numbers)


def _delete(conn: Connection, numbers: Sequence[int], ids: Sequence[str]) -> int:
    if not numbers:
        return 0
    _delete_callbacks(conn, callback.c.task_id.in_(ids))
    conn.execute(delete(attempt).where(attempt.c.task_id.in_(ids)))
    conn.execute(delete(task_content).where(task_content.c.seq.in_(numbers)))
    conn.execute(delete(task).where(task.c.seq.in_(numbers)))
    return len(numbers)


def _delete_callbacks(conn: Connection, which: ColumnElement[bool]) -> None:
    conn.execute(delete(delivery).where(delivery.c.callback_id.in_(select(callback.c.id).where(which))))
    conn.execute(delete(callback).where(which))
