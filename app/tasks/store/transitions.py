"""Transitions of a task that need no answer from an upstream: cancelled, expired, failed without a call, requeued."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Text,
    Update,
    bindparam,
    case,
    func,
    null,
    select,
    true,
    update,
)

from app.platform.dialects import ROWS, encode, recordset
from app.tasks.domain.attempt import TaskFailure
from app.tasks.domain.task import BatchStatus, Hold, Status
from app.tasks.store.locks import LockedBatches, has_status, lock_batches, lock_tasks, lock_waiting
from app.tasks.store.progress import (
    EndedTask,
    close_if_done,
    hold_unless_paused,
    record_progress,
    set_backfilling,
)
from app.tasks.store.tables import batch, task


def finish(
    conn: Connection,
    batches: LockedBatches,
    rows: Sequence[Row[Any]],
    status: Status,
    at: float,
    failure: TaskFailure | None = None,
    *,
    unsent: bool = False,
) -> list[str]:
    """End these locked tasks, if still in the state they were read in; returns the ids that ended.

    `batches` holds the locked rows of all their batches. `unsent`: the call they were claimed for was never made, and
    does not count as an attempt.
    """
    if not rows:
        return []
    values = {
        ROWS: encode({"id": row.id, "was": row.status} for row in rows),
        "to": status,
        "at": at,
        "code": failure and failure.code,
        "type": failure and failure.type,
        "message": failure and failure.message,
        "unsent": int(unsent),
    }
    changed = set(conn.execute(_finish(), values).scalars())
    ended = [EndedTask.of(row, status, at) for row in rows if row.id in changed]
    record_progress(conn, batches, ended)
    return [end.task_id for end in ended]


@cache
def _finish() -> Update:
    wanted = recordset(id=Text(), was=Text())
    return (
        update(task)
        .where(task.c.id == wanted.c.id, task.c.status == wanted.c.was)
        .values(
            status=bindparam("to"),
            finished_at=bindparam("at"),
            error_code=bindparam("code"),
            error_type=bindparam("type"),
            error_message=bindparam("message"),
            attempts=task.c.attempts - bindparam("unsent", type_=Integer()),
        )
        .returning(task.c.id)
    )


CANCELLED_AT_ONCE = 50_000  # rows in one transaction: as many as one queue has in Redis


def cancel_task(conn: Connection, client_id: str, task_id: str, now: float) -> Status | None:
    """Cancel a client's task; returns its status now, or None when the client has no such task.

    `cancelled`: it was waiting. `running`: its cancellation is requested; a success is still kept. Else it had ended.
    """
    return _cancel(conn, (task.c.id == task_id) & (task.c.client_id == client_id), now)


def cancel_by_id(conn: Connection, task_id: str, now: float) -> Status | None:
    """Cancel a task of any client, as after a revoke in Celery or Flower; otherwise like `cancel_task`."""
    return _cancel(conn, task.c.id == task_id, now)


def cancel_batch(conn: Connection, client_id: str, batch_id: str, now: float) -> list[str] | None:
    """Cancel a client's batch; returns the ids of tasks that this ended, None when there is no such batch.

    Running tasks are asked to stop; the batch is `cancelled` once the last has ended. Beyond 50,000 waiting tasks, the
    rest follow in `feeding.promote_due`. An ended batch stays as it is.
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
    ids = cancel_waiting(conn, lock_batches(conn, [batch_id])[batch_id], now, CANCELLED_AT_ONCE)
    if len(ids) == CANCELLED_AT_ONCE:
        set_backfilling(conn, batch_id, True)
    close_if_done(conn, lock_batches(conn, [batch_id])[batch_id], now)
    return ids


def cancel_waiting(conn: Connection, locked: Row[Any], now: float, limit: int) -> list[str]:
    """End up to `limit` queued tasks of a locked batch, and request the cancellation of its running ones.

    Returns the ids that ended. Queued tasks come first, so that one claimed meanwhile is seen running.
    """
    within = task.c.batch_id == locked.id
    waiting = lock_waiting(conn, locked.id, limit)
    ended = finish(conn, {locked.id: locked}, waiting, Status.CANCELLED, now)
    conn.execute(update(task).where(within, has_status(Status.RUNNING)).values(cancel_requested=True))
    return ended


def _count_lines(conn: Connection, batch_id: str) -> None:
    """Set the total of a batch that was never completely submitted to the lines that were."""
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


_TO_FRONT: dict[str, Any] = {"front": true(), "fed_at": null()}
_NOBODY = ("worker", "release", "claimed_at", "key", "account", "upstream_model")


class RequeueReason(Enum):
    """Why a running row is requeued without a recorded end."""

    LOST = "lost"  # its worker vanished; its call may have been made, and may still succeed
    UNSENT = "unsent"  # its worker never had it: the response to the claim was lost


def requeued_columns() -> dict[str, Any]:
    """Columns of a requeued row besides `status` and `hold`, when no late result can arrive for it."""
    return _TO_FRONT | {name: null() for name in _NOBODY}


def requeue(conn: Connection, rows: Sequence[Row[Any]], why: RequeueReason) -> None:
    """Requeue locked running rows, if they still have the worker and release they were read with."""
    if rows:
        wanted = encode({"id": row.id, "worker": row.worker, "release": row.release} for row in rows)
        conn.execute(_requeue(why), {ROWS: wanted})


@cache
def _requeue(why: RequeueReason) -> Update:
    """A lost row keeps worker and release, so that a late success is still accepted."""
    wanted = recordset(id=Text(), worker=Text(), release=BigInteger())
    same = (task.c.worker == wanted.c.worker) & (task.c.release == wanted.c.release)
    lost = {**_TO_FRONT, "lost": task.c.lost + 1}
    never = case((task.c.attempts == 1, null()), else_=task.c.started_at)
    unsent = {**requeued_columns(), "attempts": task.c.attempts - 1, "started_at": never}
    return (
        update(task)
        .where(task.c.id == wanted.c.id, has_status(Status.RUNNING), same)
        .values(status=Status.QUEUED, hold=hold_unless_paused(Hold.NONE.value))
        .values(lost if why is RequeueReason.LOST else unsent)
    )
