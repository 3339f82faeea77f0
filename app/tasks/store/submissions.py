"""Submissions: task rows and their contents, batches, idempotency keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, TextualSelect, delete, insert, select, text, tuple_, update
from sqlalchemy.dialects import postgresql

from app.platform.dialects import ROWS, changes_many_tables, encode, insert_or, insert_rows, reserve
from app.platform.domain.errors import Conflict
from app.platform.encryption import seal
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import BatchStatus, Status
from app.tasks.store.locks import lock_batches
from app.tasks.store.progress import begin_batch, close_if_done, set_backfilling
from app.tasks.store.tables import INTAKE, batch, idempotency, task, task_content

SMALL_BATCH = 32  # tasks: above this, COPY is as fast


def insert_small(
    conn: Connection, status: str, columns: Mapping[str, Sequence[Any]], requests: Sequence[str]
) -> list[int]:
    """Insert a few tasks and their contents in one statement, on PostgreSQL. `columns` include `id`.

    Returns their sequence numbers in order. Raises sqlalchemy.exc.IntegrityError when an id exists already.
    """
    names = (*columns, "request")
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), requests, strict=True))
    stored = conn.execute(_statement(tuple(columns)), {ROWS: encode(rows), "status": status})
    numbers: dict[str, int] = {row.id: row.seq for row in stored}
    return [numbers[name] for name in columns["id"]]


@lru_cache(64)
def _statement(names: tuple[str, ...]) -> TextualSelect:
    """One statement per set of columns; those with only defaults are left out. Names are those of our own table."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    typed = ", ".join(f"{name} {task.c[name].type.compile(dialect)}" for name in names)
    listed = ", ".join(names)
    statement = text(
        f"""
        WITH wanted AS MATERIALIZED (
            SELECT nextval(pg_get_serial_sequence('task', 'seq')) AS seq, given.*
            FROM json_to_recordset(CAST(:{ROWS} AS json)) AS given({typed}, request text)
        ), stored AS (
            INSERT INTO task (seq, status, {listed}) SELECT seq, :status, {listed} FROM wanted
        ), contents AS (
            INSERT INTO task_content (seq, request) SELECT seq, request FROM wanted
        )
        SELECT id, seq FROM wanted
        """  # noqa: S608  # nosec B608
    )
    return statement.columns(task.c.id, task.c.seq)  # types given here are not looked up per result


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to insert. `finish_intake` sets its number of tasks."""

    id: str
    client_id: str
    created_at: float
    expires_at: float
    batch_size: int | None = None  # how many of its tasks may be in flight at once
    callback_url: str | None = None
    metadata: str | None = None
    endpoint: str | None = None
    input_file_id: str | None = None
    completion_window: str | None = None
    output_expires_seconds: float | None = None  # how long its output files are kept after its end
    taker: str | None = None  # the process that reads its file
    asker: str | None = None  # JSON: who created it, and from where


_COLUMNS = {field.name: field.default for field in fields(NewTask) if field.name != "request"}
_SEALED = {"metadata": lambda row: None if row.metadata is None else seal(row.metadata)}


def insert_tasks(conn: Connection, rows: Sequence[NewTask]) -> list[int]:
    """Insert queued tasks and their contents; returns their sequence numbers in order.

    Single tasks and whole batches alike. Raises sqlalchemy.exc.IntegrityError when an id exists already.
    """
    if not rows:
        return []
    columns, requests = _columns_of(rows), [seal(row.request) for row in rows]
    if len(rows) <= SMALL_BATCH and changes_many_tables(conn):
        return insert_small(conn, Status.QUEUED.value, columns, requests)
    numbers = reserve(conn, task, len(rows))
    queued = repeat(Status.QUEUED.value, len(rows))
    insert_rows(conn, task, ("seq", "status", *columns), zip(numbers, queued, *columns.values(), strict=True))
    insert_rows(conn, task_content, ("seq", "request"), zip(numbers, requests, strict=True))
    return list(numbers)


def _columns_of(rows: Sequence[NewTask]) -> dict[str, list[Any]]:
    """Values by column, built without Python code per row.

    Columns with only the default, which is the database's too, are left out: usually half of them.
    """
    columns = {name: list(map(_SEALED.get(name) or attrgetter(name), rows)) for name in _COLUMNS}
    return {name: values for name, values in columns.items() if values.count(_COLUMNS[name]) < len(values)}


def insert_batch(conn: Connection, new: NewBatch) -> None:
    """Insert a batch in state `validating`; its rows follow with Hold.BATCH, in several transactions if large."""
    conn.execute(insert(batch).values(status=BatchStatus.VALIDATING, **asdict(new)))


def finish_intake(conn: Connection, batch_id: str, total: int, now: float) -> None:
    """Start a batch: its `total` rows are stored, and the first of them may run.

    Completes the cancellation of a batch that was cancelled meanwhile. Raises Conflict for one that was discarded.
    """
    before = lock_batches(conn, [batch_id]).get(batch_id)
    if before is None:
        raise Conflict(
            "the batch took too long to arrive and was discarded; submit it again", code="intake_timeout"
        )
    conn.execute(update(batch).where(batch.c.id == batch_id).values(total=total))
    if before.status != BatchStatus.VALIDATING:
        set_backfilling(conn, batch_id, True)
        return
    begun = {"status": BatchStatus.IN_PROGRESS, "in_progress_at": now}
    conn.execute(update(batch).where(batch.c.id == batch_id, text(INTAKE)).values(begun))
    begin_batch(conn, batch_id, now)
    close_if_done(conn, lock_batches(conn, [batch_id])[batch_id], now)


def remember_key(
    conn: Connection,
    client_id: str,
    key: str,
    fingerprint: str,
    object_id: str,
    now: float,
    expires_at: float,
) -> tuple[str, str]:
    """Claim an idempotency key for an object; returns the (fingerprint, object_id) that stands.

    That is the caller's own pair when the key was free or had expired. Two transactions with one key wait for each
    other, so only one of them gets its own.
    """
    fresh = {"fingerprint": fingerprint, "object_id": object_id, "expires_at": expires_at}
    statement = insert_or(conn, idempotency).values(client_id=client_id, key=key, **fresh)
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["client_id", "key"], set_=fresh, where=idempotency.c.expires_at <= now
        )
    )
    mine = (idempotency.c.client_id == client_id) & (idempotency.c.key == key)
    stands = conn.execute(select(idempotency.c.fingerprint, idempotency.c.object_id).where(mine)).one()
    return stands.fingerprint, stands.object_id


def release_key(conn: Connection, client_id: str, key: str, object_id: str) -> None:
    """Release a key that this transaction claimed for an object that was not created."""
    mine = (idempotency.c.client_id == client_id) & (idempotency.c.key == key)
    conn.execute(delete(idempotency).where(mine, idempotency.c.object_id == object_id))


def delete_expired_keys(conn: Connection, now: float, limit: int) -> int:
    """Delete up to `limit` idempotency keys that have expired; returns how many."""
    pair = (idempotency.c.client_id, idempotency.c.key)
    old = select(*pair).where(idempotency.c.expires_at <= now).order_by(idempotency.c.expires_at).limit(limit)
    return conn.execute(delete(idempotency).where(tuple_(*pair).in_(old))).rowcount


def stale_intakes(conn: Connection, before: float, limit: int) -> list[str]:
    """Batches in state `validating` created before that instant, whose submitting process has died.

    Batches over files are left out: their intake starts again (`file_batches`).
    """
    old = select(batch.c.id).where(text(INTAKE), batch.c.created_at < before, batch.c.input_file_id.is_(None))
    return list(conn.execute(old.order_by(batch.c.created_at).limit(limit)).scalars())


def discard_intake(conn: Connection, batch_id: str, limit: int) -> bool:
    """Delete up to `limit` rows of a batch in state `validating`, and it with the last of them.

    Returns whether there are more: then call it again, in another transaction. Other batches are left alone.
    """
    row = lock_batches(conn, [batch_id]).get(batch_id)
    if row is None or row.status != BatchStatus.VALIDATING:
        return False
    some = select(task.c.seq).where(task.c.batch_id == batch_id).order_by(task.c.batch_index).limit(limit)
    numbers = list(conn.execute(some).scalars())
    if numbers:
        conn.execute(delete(task_content).where(task_content.c.seq.in_(numbers)))
        conn.execute(delete(task).where(task.c.seq.in_(numbers)))
    if len(numbers) == limit:
        return True
    conn.execute(delete(batch).where(batch.c.id == batch_id))
    return False
