"""What follows when tasks end, however they ended: their batches advance, and callbacks are written.

1. Count each batch's ends and advance it, one UPDATE each.
2. Give freed slots to the next tasks of batches with a `batch_size`.
3. Write callback rows for the tasks that have a URL, and for the batches that ended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Case,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Row,
    Text,
    Update,
    case,
    exists,
    func,
    null,
    select,
    text,
    update,
)

from app.platform.database import count_ended
from app.platform.dialects import ROWS, encode, insert_rows, recordset
from app.tasks.domain.attempt import Finish
from app.tasks.domain.task import BatchProgress, BatchStatus, Hold, Status, advance, new_id
from app.tasks.store.files import EndedBatch, add_output_files
from app.tasks.store.locks import LockedBatches
from app.tasks.store.tables import HELD_BY_BATCH, QUEUED, batch, callback, task

AT_ONCE = 5_000  # rows admitted in one transaction


def begin_batch(conn: Connection, batch_id: str, now: float) -> None:
    """Admit the first rows of a batch. Its row is locked."""
    size: int | None = conn.execute(select(batch.c.batch_size).where(batch.c.id == batch_id)).scalar_one()
    if size is not None:
        admit_next(conn, batch_id, size, now)
    elif admit_next(conn, batch_id, AT_ONCE, now) == AT_ONCE:
        set_backfilling(conn, batch_id, True)


def admit_next(conn: Connection, batch_id: str, slots: int, now: float) -> int:
    """Admit up to `slots` next rows of a batch; returns how many. Its row is locked."""
    waiting = select(task.c.seq).where(task.c.batch_id == batch_id, text(HELD_BY_BATCH))
    chosen = waiting.order_by(task.c.seq).limit(slots).subquery()
    # By the last seq, not by a list: PostgreSQL would compare each row with each.
    last = conn.execute(select(func.max(chosen.c.seq))).scalar()
    if last is None:
        return 0
    these = (task.c.batch_id == batch_id) & (task.c.seq <= last)
    return conn.execute(
        update(task)
        .where(these, text(HELD_BY_BATCH))
        .values(hold=hold_once_admitted(now), degrade_at=_counting_from(now))
    ).rowcount


def _counting_from(now: float) -> Case[Any]:
    """`degrade_at` of an admitted row: its wait for its tiers begins only now."""
    return case(
        (task.c.available_at < now, task.c.degrade_at + now - task.c.available_at), else_=task.c.degrade_at
    )


def hold_once_admitted(now: float) -> Case[Any]:
    """What a row still waits for once its batch admits it."""
    return case(
        (task.c.reserved_tokens.is_not(None) & task.c.reserved_at.is_(None), Hold.BUDGET.value),
        (task.c.off_peak & (task.c.available_at > now), Hold.OFF_PEAK.value),
        (task.c.available_at > now, Hold.UNTIL.value),
        (task.c.cache_key.is_not(None), Hold.JOINING.value),
        else_=Hold.NONE.value,
    )


def set_backfilling(conn: Connection, batch_id: str, value: bool) -> None:
    """Set whether rows of a batch have yet to follow its state. Its row is locked."""
    conn.execute(update(batch).where(batch.c.id == batch_id).values(sweeping=value))


_HAVE_PLACES = (Hold.NONE, Hold.UNTIL, Hold.JOINING, Hold.FOLLOWING, Hold.BUDGET, Hold.OFF_PEAK)


def set_paused(conn: Connection, batch_id: str, at: float | None) -> None:
    """Set since when a batch is paused; None: it is not. Its row is locked."""
    conn.execute(update(batch).where(batch.c.id == batch_id).values(paused_at=at))


def end_pause(conn: Connection, row: Row[Any], now: float) -> None:
    """End the pause of a locked batch. The time until a degraded answer does not run during a pause.

    `degrade_at` moves for all rows at once, even of a large batch: rows resume a part at a time, when `paused_at` is
    already gone.
    """
    set_paused(conn, row.id, None)
    held = (task.c.batch_id == row.id) & text(QUEUED) & (task.c.hold == Hold.PAUSED)
    later = {"degrade_at": task.c.degrade_at + (now - row.paused_at)}
    conn.execute(update(task).where(held, task.c.degrade_at.is_not(None)).values(later))


def pause_rows(conn: Connection, batch_id: str, limit: int) -> tuple[int, list[str]]:
    """Pause up to `limit` rows; returns how many, and the ids whose messages are void. The batch is locked."""
    waiting = (task.c.batch_id == batch_id) & text(QUEUED) & task.c.hold.in_(_HAVE_PLACES)
    chosen = select(task.c.seq, task.c.id, task.c.fed_at, task.c.batch_index).where(waiting)
    rows = conn.execute(chosen.order_by(task.c.batch_index).limit(limit).with_for_update(of=task)).all()
    if rows:
        these = waiting & (task.c.batch_index <= rows[-1].batch_index)
        conn.execute(update(task).where(these).values(hold=Hold.PAUSED, fed_at=null()))
    return len(rows), [row.id for row in rows if row.fed_at is not None]


def resume_rows(conn: Connection, row: Row[Any], now: float, limit: int) -> int:
    """Resume up to `limit` rows of a locked batch; returns how many."""
    paused = (task.c.batch_id == row.id) & text(QUEUED) & (task.c.hold == Hold.PAUSED)
    chosen = select(task.c.batch_index).where(paused).order_by(task.c.batch_index).limit(limit)
    indexes = conn.execute(chosen).scalars().all()
    if indexes:
        these = paused & (task.c.batch_index <= indexes[-1])
        conn.execute(update(task).where(these).values(hold=hold_once_admitted(now)))
    if len(indexes) == limit:
        return limit
    return len(indexes) + fill_slots(conn, row, now, limit - len(indexes))


def fill_slots(conn: Connection, row: Row[Any], now: float, limit: int) -> int:
    """Admit rows of a locked batch: at most `limit`, and at most as many as its `batch_size` leaves."""
    if row.batch_size is None:
        return admit_next(conn, row.id, limit, now)
    in_flight = (task.c.status == Status.RUNNING) | (
        (task.c.status == Status.QUEUED) & (task.c.hold != Hold.BATCH)
    )
    count = select(func.count()).where(task.c.batch_id == row.id, in_flight)
    free = row.batch_size - conn.execute(count).scalar_one()
    return admit_next(conn, row.id, free, now) if free > 0 else 0


def hold_unless_paused(otherwise: Any) -> Case[Any]:
    """The hold of a requeued row: its batch may have been paused while it ran."""
    paused: ColumnElement[bool] = exists().where(
        batch.c.id == task.c.batch_id, batch.c.paused_at.is_not(None)
    )
    return case((paused, Hold.PAUSED.value), else_=otherwise)


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
    finish: str | None = None  # of its answer

    @classmethod
    def of(cls, row: Row[Any], status: Status, at: float, finish: str | None = None) -> EndedTask:
        """From the row that was locked before it ended."""
        finish = finish if status is not Status.CANCELLED else None
        return cls(row.id, row.client_id, row.batch_id, row.hold, row.callback_url, status, at, finish)


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
    def finishes(self) -> str | None:
        """Counts of the batch's answers that are not complete, as JSON text."""
        ends = Counter(end.finish for end in self.ends if end.finish not in (None, Finish.COMPLETE))
        if not ends:
            return None if self.row.finishes is None else str(self.row.finishes)
        return json.dumps(dict(Counter(json.loads(self.row.finishes or "{}")) + ends))

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
            "finishes": move.finishes,
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
    to = recordset(id=Text(), was=Text(), status=Text(), at=Double(), finishes=Text(), **counters)

    def when(column: str, *statuses: BatchStatus) -> Any:
        return case((to.c.status.in_(statuses), to.c.at), else_=batch.c[column])

    return (
        update(batch)
        .where(batch.c.id == to.c.id, batch.c.status == to.c.was)
        .values(
            {
                "status": to.c.status,
                **{name: to.c[name] for name in counters},
                "finishes": to.c.finishes,
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
