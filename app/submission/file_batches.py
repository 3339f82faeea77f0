"""Batches over a file: taken in by one process at a time, from `validating` to `in_progress` or `failed`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, Row, delete, select, text, update

from app.platform.dialects import insert_or, insert_rows, reserve
from app.tasks.domain.task import BatchStatus, PriorityStep, Status
from app.tasks.store.locks import lock_batches
from app.tasks.store.progress import CallbackEvent, write_callbacks
from app.tasks.store.tables import INTAKE, batch, holder, idempotency, task, task_content


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that will never run: stored as a failed task."""

    id: str
    client_id: str
    batch_id: str
    batch_index: int
    custom_id: str
    model: str
    queue: str
    request: str
    created_at: float
    expires_at: float
    error_code: str
    error_type: str
    error_message: str


_LINE = tuple(item.name for item in fields(RefusedLine) if item.name != "request")
_COLUMNS = ("seq", "status", "step", "estimate", "available_at", "finished_at", *_LINE)


def hold_intake(conn: Connection, batch_id: str, taker: str) -> Row[tuple[object, ...]] | None:
    """Lock the row of a batch that this process takes in; None if another process has it, or it was cancelled."""
    row = lock_batches(conn, [batch_id]).get(batch_id)
    if row is None or row.status != BatchStatus.VALIDATING or row.taker != taker:
        return None
    return row


def orphaned(conn: Connection, limit: int) -> list[str]:
    """Batches over files whose taker is no longer registered."""
    alive = select(holder.c.id)
    found = select(batch.c.id).where(text(INTAKE), batch.c.input_file_id.is_not(None))
    found = found.where(batch.c.taker.is_(None) | batch.c.taker.not_in(alive))
    return list(conn.execute(found.order_by(batch.c.created_at).limit(limit)).scalars())


def adopt(conn: Connection, batch_id: str, taker: str) -> bool:
    """Become the taker of such a batch. False: another process was quicker."""
    row = lock_batches(conn, [batch_id]).get(batch_id)
    alive = set(conn.execute(select(holder.c.id)).scalars())
    if row is None or row.status != BatchStatus.VALIDATING or row.taker in alive:
        return False
    conn.execute(update(batch).where(batch.c.id == batch_id).values(taker=taker))
    return True


def asker_of(conn: Connection, batch_id: str) -> str | None:
    """The caller who created a batch that is being taken in, as in `NewBatch.asker`."""
    return conn.execute(select(batch.c.asker).where(batch.c.id == batch_id)).scalar()


def drop_lines(conn: Connection, batch_id: str, limit: int) -> bool:
    """Delete up to `limit` lines of a batch being taken in; returns whether there may be more. Its row is locked."""
    some = select(task.c.seq).where(task.c.batch_id == batch_id).order_by(task.c.batch_index).limit(limit)
    numbers = list(conn.execute(some).scalars())
    if numbers:
        conn.execute(delete(task_content).where(task_content.c.seq.in_(numbers)))
        conn.execute(delete(task).where(task.c.seq.in_(numbers)))
    return len(numbers) == limit


def insert_refused(conn: Connection, rows: Sequence[RefusedLine]) -> None:
    """Store lines that failed before they could run, in order."""
    if not rows:
        return
    numbered = list(zip(reserve(conn, task, len(rows)), rows, strict=True))
    failed, step = Status.FAILED.value, PriorityStep.NORMAL.value
    values = (
        (seq, failed, step, 0, row.created_at, row.created_at, *(getattr(row, name) for name in _LINE))
        for seq, row in numbered
    )
    insert_rows(conn, task, _COLUMNS, values)
    contents = [{"seq": seq, "request": row.request} for seq, row in numbered]
    conn.execute(task_content.insert(), contents)


def record_intake(conn: Connection, batch_id: str, *, refused: int, models: Collection[str]) -> None:
    """Record refused lines and the model, if there is only one. The batch's row is locked."""
    one = next(iter(models)) if len(models) == 1 else None
    conn.execute(
        update(batch).where(batch.c.id == batch_id).values(failed=refused, model=one, taker=None, asker=None)
    )


def fail_intake(conn: Connection, row: Row[tuple[object, ...]], errors: str, now: float) -> None:
    """End a batch whose file was refused. `errors` is JSON text; its row is locked, its lines are gone."""
    failed = {"status": BatchStatus.FAILED, "failed_at": now, "errors": errors, "taker": None, "asker": None}
    conn.execute(update(batch).where(batch.c.id == row.id, text(INTAKE)).values(failed))
    if row.callback_url is not None:
        write_callbacks(
            conn, [CallbackEvent(row.client_id, "batch.failed", row.callback_url, now, batch_id=row.id)]
        )


def note_creation(conn: Connection, client_id: str, key: str, batch_id: str, expires_at: float) -> None:
    """Record which batch a request created, for its repeats."""
    fresh = {"fingerprint": key, "object_id": batch_id, "expires_at": expires_at}
    statement = insert_or(conn, idempotency).values(client_id=client_id, key=key, **fresh)
    conn.execute(statement.on_conflict_do_update(index_elements=["client_id", "key"], set_=fresh))


def created_by(conn: Connection, client_id: str, key: str, now: float) -> str | None:
    """The batch that an earlier try of this request created."""
    mine = (idempotency.c.client_id == client_id) & (idempotency.c.key == key)
    found: str | None = conn.execute(
        select(idempotency.c.object_id).where(mine, idempotency.c.expires_at > now)
    ).scalar()
    return found
