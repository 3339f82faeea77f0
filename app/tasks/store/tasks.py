"""Reading tasks: their rows, upstream calls, callback deliveries and traces. One statement changes their metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    null,
    or_,
    select,
    text,
    union_all,
    update,
)

from app.platform.dialects import ROWS, encode, recordset
from app.tasks.domain.rows import AttemptRow, DeliveryAttempt, TaskRow
from app.tasks.domain.task import BATCH_ENDS, ENDS, BatchStatus, CallbackState, Hold, Status
from app.tasks.store.locks import belongs_to
from app.tasks.store.tables import INTAKE, attempt, batch, callback, delivery, task, task_content

_STATUS, _HOLD = (list(TaskRow.__slots__).index(name) for name in ("status", "hold"))


def get_task(conn: Connection, client_id: str | None, task_id: str) -> TaskRow | None:
    """One task with its result; None when this client (None: any client) has no such task."""
    whose = {} if client_id is None else {"client": client_id}
    row = conn.execute(_one(owned=bool(whose)), {"id": task_id, **whose}).first()
    return None if row is None else _task(row)


def list_tasks(
    conn: Connection,
    client_id: str,
    status: str | None = None,
    batch_id: str | None = None,
    after_seq: int | None = None,
    limit: int = 100,
    reason: str | None = None,
) -> list[TaskRow]:
    """A client's tasks without results, newest first, those older than `after_seq`.

    Tasks of a batch that is still being submitted are left out. `reason`: only those with this error code.
    """
    if batch_id is not None:
        numbers = _with_reason(_of_batch(client_id, status, batch_id, after_seq), reason).limit(limit)
    else:
        states = [status] if status is not None else list(Status)
        parts = [
            _with_reason(_in_state(client_id, state, after_seq), reason).limit(limit) for state in states
        ]
        numbers = _newest(parts, limit)
    found = (
        select(*_columns(null()))
        .where(task.c.seq.in_(numbers), task.c.deleted_at.is_(null()))
        .order_by(task.c.seq.desc())
    )
    return [_task(row) for row in conn.execute(found)]


def marked_ids(
    conn: Connection,
    client_id: str,
    custom_id: str,
    model: str | None,
    after_seq: int | None,
    limit: int,
    *,
    ascending: bool,
) -> list[tuple[str, int]]:
    """(id, seq) of a client's succeeded single tasks with this custom id, on one side of `after_seq`."""
    found = select(task.c.id, task.c.seq).where(
        task.c.client_id == client_id, task.c.status == Status.SUCCEEDED, task.c.custom_id == custom_id
    )
    found = found.where(task.c.batch_id.is_(None), task.c.deleted_at.is_(None))
    if model is not None:
        found = found.where(task.c.model == model)
    if after_seq is not None:
        found = found.where(task.c.seq > after_seq if ascending else task.c.seq < after_seq)
    order = task.c.seq.asc() if ascending else task.c.seq.desc()
    return [(row.id, row.seq) for row in conn.execute(found.order_by(order).limit(limit))]


def set_metadata(conn: Connection, client_id: str, task_id: str, metadata: str | None) -> None:
    """Replace a task's metadata."""
    mine = (task.c.id == task_id) & (task.c.client_id == client_id)
    conn.execute(update(task).where(mine).values(metadata=metadata))


def attempts_of(conn: Connection, task_id: str) -> list[AttemptRow]:
    """The upstream calls for a task, oldest first."""
    columns = [attempt.c[field.name] for field in fields(AttemptRow)]
    found = select(*columns).where(attempt.c.task_id == task_id).order_by(attempt.c.seq)
    return [AttemptRow(*row) for row in conn.execute(found)]


def ended_among(conn: Connection, ids: Iterable[str]) -> dict[str, str]:
    """The status of those of these tasks and batches that have ended."""
    wanted = {ROWS: encode({"id": name} for name in ids)}
    rows = [row for statement in _ended() for row in conn.execute(statement, wanted)]
    return {row.id: row.status for row in rows}


def _columns(result: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    paused = select(batch.c.paused_at).where(batch.c.id == task.c.batch_id).scalar_subquery()
    last_callback = (
        select(callback.c.status).where(callback.c.task_id == task.c.id).order_by(callback.c.seq.desc())
    )
    last = (
        paused.label("batch_paused_at"),
        result.label("result"),
        last_callback.limit(1).scalar_subquery().label("callback_status"),
    )
    return [*(task.c[field.name] for field in fields(TaskRow)[: -len(last)]), *last]


def _task(row: Row[Any]) -> TaskRow:
    values = list(row)  # by position: the columns were chosen in the order of the fields
    values[_STATUS], values[_HOLD] = Status(values[_STATUS]), Hold(values[_HOLD])
    return TaskRow(*values)


def _in_state(client_id: str, status: str, after_seq: int | None) -> Select[Any]:
    """One range of ix_task_client_id_status_seq."""
    found = select(task.c.seq).where(task.c.client_id == client_id, task.c.status == status)
    if after_seq is not None:
        found = found.where(task.c.seq < after_seq)
    if status == Status.QUEUED:
        coming_in = select(batch.c.id).where(text(f"batch.{INTAKE}"))
        found = found.where(task.c.batch_id.is_(None) | task.c.batch_id.not_in(coming_in))
    return found.order_by(task.c.seq.desc())


def _with_reason(found: Select[Any], reason: str | None) -> Select[Any]:
    return found if reason is None else found.where(task.c.error_code == reason)


def _newest(parts: list[Select[Any]], limit: int) -> Select[Any]:
    """The newest of several ranges, each read no further than needed."""
    ranges = union_all(*(select(part.subquery().c.seq) for part in parts)).subquery()
    return select(ranges.c.seq).order_by(ranges.c.seq.desc()).limit(limit)


def _of_batch(client_id: str, status: str | None, batch_id: str, after_seq: int | None) -> Select[Any]:
    """A range of ix_task_batch: a batch's lines are numbered in the order of their seq."""
    coming_in = select(batch.c.id).where(text(f"batch.{INTAKE}"))
    mine = (task.c.batch_id == batch_id) & (task.c.client_id == client_id) & task.c.batch_id.not_in(coming_in)
    found = select(task.c.seq).where(mine).order_by(task.c.batch_index.desc())
    if after_seq is not None:
        other = task.alias("other")
        line = select(other.c.batch_index).where(other.c.seq == after_seq).scalar_subquery()
        found = found.where(task.c.batch_index < line)
    return found if status is None else found.where(task.c.status == status)


@cache
def _one(*, owned: bool) -> Select[Any]:
    found = select(*_columns(task_content.c.result)).join(task_content, task_content.c.seq == task.c.seq)
    found = found.where(task.c.id == bindparam("id"))
    return found.where(belongs_to(bindparam("client")), task.c.deleted_at.is_(null())) if owned else found


@cache
def _ended() -> tuple[Select[Any], Select[Any]]:
    wanted = recordset(id=Text())
    tasks = select(task.c.id, task.c.status).join(wanted, wanted.c.id == task.c.id)
    batches = select(batch.c.id, batch.c.status).join(wanted, wanted.c.id == batch.c.id)
    task_ends: list[Status] = sorted(ENDS)
    batch_ends: list[BatchStatus] = sorted(BATCH_ENDS)
    ended = task.c.status.concat("").in_(task_ends)  # fits no index, as in locks.py: rows are looked up by id
    return tasks.where(ended), batches.where(batch.c.status.in_(batch_ends))


@dataclass(frozen=True, slots=True)
class Traced:
    """The trace of a task, and since when it could have run."""

    trace: str
    ready_at: float


def traces_of(conn: Connection, ids: Sequence[str]) -> dict[str, Traced]:
    """The traces of those of these tasks that have one."""
    columns = (task.c.id, task.c.trace, task.c.available_at, task.c.created_at)
    rows = conn.execute(select(*columns).where(task.c.id.in_(ids), task.c.trace.is_not(None)))
    return {row.id: Traced(row.trace, row.available_at or row.created_at) for row in rows}


def deliveries_of(conn: Connection, task_id: str) -> list[DeliveryAttempt]:
    """All delivery attempts of a task's (or, by its id, a batch's) callbacks, oldest first."""
    subject = or_(
        callback.c.task_id == task_id, (callback.c.batch_id == task_id) & callback.c.task_id.is_(None)
    )
    statement = (
        select(
            callback.c.id,
            callback.c.type,
            callback.c.url,
            callback.c.status,
            delivery.c.number,
            delivery.c.started_at,
            delivery.c.finished_at,
            delivery.c.status_code,
            delivery.c.error,
        )
        .join(delivery, delivery.c.callback_id == callback.c.id)
        .where(subject)
        .order_by(delivery.c.seq)
    )
    return [
        DeliveryAttempt(row[0], row[1], row[2], CallbackState(row[3]), *row[4:])
        for row in conn.execute(statement)
    ]
