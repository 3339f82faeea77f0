"""Cancelling: what waits ends at once, what runs is marked and ends with its call."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from app.tasks.domain.batch import BatchStatus
from app.tasks.domain.task import Status
from app.tasks.store.batch_slots import set_sweeping
from app.tasks.store.locks import is_now, lock_batches, lock_tasks, lock_waiting
from app.tasks.store.progress import close_if_done
from app.tasks.store.tables import batch, task
from app.tasks.store.terminal_states import finish

AT_ONCE = 50_000  # rows cancelled in one transaction: a queue's whole window in Redis


def cancel_task(conn: Connection, client_id: str, task_id: str, now: float) -> Status | None:
    """Cancel a client's task; gives back the status it has now, or None when the client has no such task.

    `cancelled`: it waited. `running`: asked to end; a success that still comes is kept. Else it had ended.
    """
    return _cancel(conn, (task.c.id == task_id) & (task.c.client_id == client_id), now)


def cancel_by_id(conn: Connection, task_id: str, now: float) -> Status | None:
    """Cancel a task whoever owns it, as after a revoke in Celery or Flower. Else like `cancel_task`."""
    return _cancel(conn, task.c.id == task_id, now)


def cancel_batch(conn: Connection, client_id: str, batch_id: str, now: float) -> list[str] | None:
    """Cancel a client's batch; gives back the ids of tasks that ended by it, None when there is no such batch.

    Its running tasks are asked to end; with the last of them the batch is `cancelled`. Of more than 50,000 waiting
    ones the later follow by `feeding.promote_due`. A batch that has ended stays as it is.
    """
    mine = (batch.c.id == batch_id) & (batch.c.client_id == client_id)
    if conn.execute(select(batch.c.id).where(mine)).first() is None:
        return None
    row = lock_batches(conn, [batch_id])[batch_id]
    if BatchStatus(row.status).ended:
        return []
    if row.status == BatchStatus.VALIDATING:
        _count_lines(conn, batch_id)
    _mark_batch(conn, row, now)
    ids = cancel_waiting(conn, lock_batches(conn, [batch_id])[batch_id], now, AT_ONCE)
    if len(ids) == AT_ONCE:
        set_sweeping(conn, batch_id, True)
    close_if_done(conn, lock_batches(conn, [batch_id])[batch_id], now)
    return ids


def cancel_waiting(conn: Connection, locked: Row[Any], now: float, limit: int) -> list[str]:
    """End a locked batch's queued tasks, at most `limit`, and ask its running ones to end.

    Gives back the ids that ended. The waiting first: what is claimed meanwhile is then seen to run.
    """
    within = task.c.batch_id == locked.id
    waiting = lock_waiting(conn, locked.id, limit)
    ended = finish(conn, {locked.id: locked}, waiting, Status.CANCELLED, now)
    conn.execute(update(task).where(within, is_now(Status.RUNNING)).values(cancel_requested=True))
    return ended


def _count_lines(conn: Connection, batch_id: str) -> None:
    """A batch that never came in whole has the lines that did."""
    count = select(func.count()).select_from(task).where(task.c.batch_id == batch_id).scalar_subquery()
    conn.execute(update(batch).where(batch.c.id == batch_id).values(total=count))


def _mark_batch(conn: Connection, row: Row[Any], now: float) -> None:
    is_it = (batch.c.id == row.id) & (batch.c.status == row.status)
    if row.status != BatchStatus.CANCELLING:
        conn.execute(update(batch).where(is_it).values(status=BatchStatus.CANCELLING, cancelling_at=now))


def _cancel(conn: Connection, which: ColumnElement[bool], now: float) -> Status | None:
    found = conn.execute(select(task.c.id, task.c.batch_id).where(which)).first()
    if found is None:
        return None
    batches = lock_batches(conn, [found.batch_id])
    row = lock_tasks(conn, [found.id])[found.id]
    if row.status == Status.QUEUED:
        finish(conn, batches, [row], Status.CANCELLED, now)
        return Status.CANCELLED
    if row.status == Status.RUNNING:
        still = (task.c.id == row.id) & (task.c.status == Status.RUNNING)
        conn.execute(update(task).where(still).values(cancel_requested=True))
    return Status(row.status)
