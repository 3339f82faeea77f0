"""What follows when tasks end, however they ended: their batches advance, and callbacks are written.

1. Count each batch's ends and advance it, one UPDATE each.
2. Give freed slots to the next tasks of batches with a `batch_size`.
3. Write callback rows for the tasks that have a URL, and for the batches that ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Double, Integer, Row, Text, Update, case, update

from app.platform.database import count_ended
from app.platform.dialects import ROWS, encode, insert_rows, recordset
from app.tasks.domain.batch import BatchProgress, BatchStatus, advance
from app.tasks.domain.task import Hold, Status, new_id
from app.tasks.store.batch_slots import admit_next
from app.tasks.store.files import EndedBatch, add_output_files
from app.tasks.store.locks import LockedBatches
from app.tasks.store.tables import batch, callback

_COLUMNS = ("id", "client_id", "task_id", "batch_id", "type", "url", "status", "next_at", "created_at")


@dataclass(frozen=True, slots=True)
class CallbackEvent:
    """An event for a client's callback: `type` is task.succeeded, batch.completed and the like."""

    client_id: str
    type: str
    url: str
    at: float
    task_id: str | None = None
    batch_id: str | None = None


def write_callbacks(conn: Connection, events: Sequence[CallbackEvent]) -> list[str]:
    """Write a pending callback for each event, due at once; returns their ids in order."""
    ids = [new_id("evt", event.at) for event in events]
    if events:
        rows = (
            (
                name,
                event.client_id,
                event.task_id,
                event.batch_id,
                event.type,
                event.url,
                "pending",
                event.at,
                event.at,
            )
            for name, event in zip(ids, events, strict=True)
        )
        insert_rows(conn, callback, _COLUMNS, rows)
    return ids


Callbacks = dict[str, tuple[str, ...]]  # by task id: the callbacks caused by its end, its batch's included


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task that this transaction has ended, with its `hold` at that time."""

    task_id: str
    client_id: str
    batch_id: str | None
    hold: int
    callback_url: str | None
    status: Status
    at: float

    @classmethod
    def of(cls, row: Row[Any], status: Status, at: float) -> EndedTask:
        """From the row that was locked before it ended."""
        return cls(row.id, row.client_id, row.batch_id, row.hold, row.callback_url, status, at)


@dataclass(frozen=True, slots=True)
class _Move:
    """One batch before and after the ends of this transaction."""

    row: Row[Any]
    ends: Sequence[EndedTask]
    before: BatchProgress
    after: BatchProgress
    at: float

    @property
    def finished(self) -> bool:
        return self.after.status.ended and not self.before.status.ended

    @property
    def freed(self) -> int:
        """Freed slots within `batch_size`."""
        return sum(end.hold != Hold.BATCH for end in self.ends)


def record_progress(conn: Connection, batches: LockedBatches, ended: Sequence[EndedTask]) -> Callbacks:
    """Advance batches and write callbacks for these ends. `batches` holds the locked rows of all their batches."""
    count_ended(end.status.value for end in ended)
    moves = [_move(batches[name], ends) for name, ends in sorted(_by_batch(ended).items())]
    _write(conn, moves)
    for move in moves:
        goes_on = move.after.status is BatchStatus.IN_PROGRESS and move.row.paused_at is None
        if move.row.batch_size is not None and move.freed and goes_on:
            admit_next(conn, move.row.id, move.freed, move.at)
    return _write_events(conn, ended, [move for move in moves if move.finished])


def close_if_done(conn: Connection, row: Row[Any], at: float) -> None:
    """End a batch all of whose tasks have ended. Its row is locked."""
    before = progress_of(row)
    move = _Move(row, (), before, advance(before, completed=0, failed=0, cancelled=0, at=at), at)
    _write(conn, [move])
    _write_events(conn, (), [move] if move.finished else [])


def progress_of(row: Row[Any]) -> BatchProgress:
    """The counters and state of a batch row."""
    counts = (row.total, row.completed, row.failed, row.cancelled)
    return BatchProgress(BatchStatus(row.status), *counts, expires_at=row.expires_at)


def _by_batch(ended: Iterable[EndedTask]) -> dict[str, list[EndedTask]]:
    batches: dict[str, list[EndedTask]] = {}
    for end in ended:
        if end.batch_id is not None:
            batches.setdefault(end.batch_id, []).append(end)
    return batches


def _move(row: Row[Any], ends: Sequence[EndedTask]) -> _Move:
    counts = Counter(end.status for end in ends)
    before, at = progress_of(row), max(end.at for end in ends)
    after = advance(
        before,
        completed=counts[Status.SUCCEEDED],
        failed=counts[Status.FAILED] + counts[Status.EXPIRED],
        cancelled=counts[Status.CANCELLED],
        at=at,
    )
    return _Move(row, ends, before, after, at)


def _write(conn: Connection, moves: Sequence[_Move]) -> None:
    rows = [
        {
            "id": move.row.id,
            "was": move.before.status,
            "status": move.after.status,
            "completed": move.after.completed,
            "failed": move.after.failed,
            "cancelled": move.after.cancelled,
            "at": move.at,
        }
        for move in moves
    ]
    if rows:
        conn.execute(_batch_update(), {ROWS: encode(rows)})
    add_output_files(conn, [EndedBatch(move.row, move.after, move.at) for move in moves if move.finished])


@cache
def _batch_update() -> Update:
    counters = {name: Integer() for name in ("completed", "failed", "cancelled")}
    to = recordset(id=Text(), was=Text(), status=Text(), at=Double(), **counters)

    def when(column: str, *statuses: BatchStatus) -> Any:
        return case((to.c.status.in_(statuses), to.c.at), else_=batch.c[column])

    return (
        update(batch)
        .where(batch.c.id == to.c.id, batch.c.status == to.c.was)
        .values(
            {
                "status": to.c.status,
                **{name: to.c[name] for name in counters},
                "finalizing_at": when("finalizing_at", BatchStatus.COMPLETED, BatchStatus.EXPIRED),
                "completed_at": when("completed_at", BatchStatus.COMPLETED),
                "expired_at": when("expired_at", BatchStatus.EXPIRED),
                "cancelled_at": when("cancelled_at", BatchStatus.CANCELLED),
            }
        )
    )


def _write_events(conn: Connection, ended: Sequence[EndedTask], finished: Sequence[_Move]) -> Callbacks:
    """Write the callback rows. A batch's own is attributed to the last of its tasks that ended here."""
    with_url = [end for end in ended if end.callback_url is not None]
    closed = [move for move in finished if move.row.callback_url is not None]
    ids = write_callbacks(conn, [*map(_task_event, with_url), *map(_batch_event, closed)])
    causes = [end.task_id for end in with_url] + [
        move.ends[-1].task_id if move.ends else "" for move in closed
    ]
    callbacks: Callbacks = {}
    for cause, event in zip(causes, ids, strict=True):
        callbacks[cause] = (*callbacks.get(cause, ()), event)
    return callbacks


def _task_event(end: EndedTask) -> CallbackEvent:
    url = end.callback_url or ""
    return CallbackEvent(
        end.client_id, f"task.{end.status}", url, end.at, task_id=end.task_id, batch_id=end.batch_id
    )


def _batch_event(move: _Move) -> CallbackEvent:
    row = move.row
    return CallbackEvent(
        row.client_id, f"batch.{move.after.status}", row.callback_url, move.at, batch_id=row.id
    )
