"""Feeding rows into backlog queues. A row is fed while `fed_at` is set: its message is in Redis, or should be.

Whatever the size of the backlog, each statement reads the head of one partial index with `ORDER BY ... LIMIT`: for a
MIN, PostgreSQL may read the whole index while its statistics say that the index is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    CursorResult,
    Double,
    Row,
    Text,
    Update,
    bindparam,
    case,
    func,
    null,
    select,
    text,
    tuple_,
    update,
)

from app.platform.dialects import ROWS, encode, recordset
from app.tasks.domain.attempt import Message
from app.tasks.domain.task import NOT_DUE, BatchStatus, Hold, PriorityStep, Status
from app.tasks.store.locks import first_rows, has_status, lock_batches, lock_in_order
from app.tasks.store.off_peak import open_windows
from app.tasks.store.progress import pause_rows, resume_rows, set_backfilling
from app.tasks.store.tables import FED, SWEEPING, TIMED, UNFED, attempt, batch, task
from app.tasks.store.transitions import cancel_waiting

_BATCHES = 20  # per transaction


def backfill_batches(conn: Connection, now: float, limit: int) -> int:
    """Resume, pause or cancel up to `limit` more rows of each batch too large for one transaction; returns how many."""
    chosen = select(batch.c.id).where(text(SWEEPING)).order_by(batch.c.id).limit(_BATCHES)
    rows = lock_batches(conn, conn.execute(chosen).scalars())
    return sum(_backfill(conn, row, now, limit) for row in rows.values())


def _backfill(conn: Connection, row: Row[Any], now: float, limit: int) -> int:
    if row.status == BatchStatus.IN_PROGRESS and row.paused_at is not None:
        moved, _ = pause_rows(conn, row.id, limit)
    elif row.status == BatchStatus.IN_PROGRESS:
        moved = resume_rows(conn, row, now, limit)
    else:
        moved = len(cancel_waiting(conn, row, now, limit))
    if moved < limit:
        set_backfilling(conn, row.id, False)
    return moved


_QUEUES = text(
    f"""
    WITH RECURSIVE found (queue) AS (
        SELECT (SELECT task.queue FROM task WHERE {UNFED} ORDER BY task.queue LIMIT 1)
        UNION ALL
        SELECT (SELECT task.queue FROM task WHERE {UNFED} AND task.queue > found.queue
                ORDER BY task.queue LIMIT 1)
        FROM found WHERE found.queue IS NOT NULL
    )
    SELECT queue FROM found WHERE queue IS NOT NULL
    """  # noqa: S608  # constants  # nosec B608
)


def queues_to_feed(conn: Connection) -> list[str]:
    """Names of the queues with rows to feed, one index step each."""
    return list(conn.execute(_QUEUES).scalars())


def any_by_deadline(conn: Connection, queue: str) -> bool:
    """Whether a queue has rows to feed that are ordered by deadline."""
    return any(due is not None and due < NOT_DUE for due in conn.execute(_FIRST_DUE, {"queue": queue}).one())


def next_to_feed(
    conn: Connection, queue: str, limit: int, rooms: Mapping[int, int] | None = None
) -> list[Message]:
    """The next rows to feed: retries first, then by step, deadline if set, sequence. Changes nothing.

    `rooms`: how many rows ordered by deadline each step may take now; None: the queue has none.
    """
    messages = [_message(row) for row in conn.execute(_head(front=True), {"queue": queue, "most": limit})]
    if rooms is None:
        return messages + _taken(conn, _head(front=False), queue, limit - len(messages))
    for step in PriorityStep:
        room = min(rooms.get(step, 0), limit - len(messages))
        messages += _taken(conn, _of_step(ordered=True), queue, room, step)
        messages += _taken(conn, _of_step(ordered=False), queue, limit - len(messages), step)
    return messages


def _taken(conn: Connection, statement: Any, queue: str, most: int, step: int | None = None) -> list[Message]:
    if most <= 0:
        return []
    given = {"queue": queue, "most": most} | ({} if step is None else {"step": int(step)})
    return [_message(row) for row in conn.execute(statement, given)]


def mark_fed(conn: Connection, ids: Sequence[str], at: float) -> None:
    """Mark these rows as fed, unless they are no longer queued or are held again."""
    if ids:
        conn.execute(_mark(), {ROWS: encode({"id": name} for name in ids), "at": at})


def mark_unqueued(conn: Connection, ids: Sequence[str]) -> None:
    """Let queued rows be fed again: their messages never reached Redis, or were lost."""
    if ids:
        conn.execute(_unmark(), {ROWS: encode({"id": name} for name in ids)})


def postpone(conn: Connection, task_id: str, until: float, why: str) -> bool:
    """Let a queued row wait until `until` (Unix seconds), with a code that says why; whether it was queued.

    The next claim clears the code.
    """
    free = (task.c.id == task_id, has_status(Status.QUEUED), task.c.hold == Hold.NONE)
    later = update(task).where(*free).values(hold=Hold.UNTIL, available_at=until, fed_at=None, error_code=why)
    return conn.execute(later).rowcount == 1


def mark_some_unqueued(conn: Connection, limit: int) -> int:
    """Let up to `limit` fed rows be fed again, after Redis lost its data; returns how many. Call until 0."""
    return _count(conn.execute(_UNFEED_SOME, {"most": limit}))


def clamp_queued_at(conn: Connection, now: float, ahead: float, limit: int) -> int:
    """Set `fed_at` to now in up to `limit` rows where it is more than `ahead` seconds ahead: a clock was."""
    given = {"now": now, "latest": now + ahead, "most": limit}
    return _count(conn.execute(_DATE_BACK, given))


def correct_postponed(
    conn: Connection, now: float, ahead: float, after: tuple[float, int], limit: int
) -> tuple[float, int] | None:
    """Check up to `limit` waiting rows after `after`, an (available_at, seq); returns that of the last one.

    Rows whose last call ended more than `ahead` seconds in the future were postponed by a clock that was ahead: they
    now wait from now on, for as long as was decided then. None: there are no more rows.
    """
    page = conn.execute(_LATER, {"at": after[0], "seq": after[1], "most": limit}).all()
    tried = [row.id for row in page if row.attempts]
    ended = {row.task_id: row.at for row in conn.execute(_ENDED, {"ids": tried})} if tried else {}
    for row in page:
        if row.available_at >= ended.get(row.id, now) > now + ahead:
            wait = row.available_at - ended[row.id]
            conn.execute(_BRING_BACK, {"number": row.seq, "was": row.available_at, "soon": now + wait})
    return (page[-1].available_at, page[-1].seq) if len(page) == limit else None


def promote_due(conn: Connection, now: float, limit: int) -> int:
    """Release up to `limit` rows that have become due, and the next rows of large batches; returns how many."""
    moved = backfill_batches(conn, now, limit)
    moved += open_windows(conn, now, limit)
    return moved + _count(conn.execute(_PROMOTE, {"now": now, "most": limit}))


def next_due(conn: Connection) -> float | None:
    """When the next waiting row becomes due, in Unix seconds; None when there is none."""
    return conn.execute(_NEXT_DUE).scalar()


def _count(changed: CursorResult[Any]) -> int:
    """The number of returned rows: SQLite reports no rowcount for an UPDATE that begins with WITH."""
    return len(changed.all())


@cache
def _head(*, front: bool) -> Any:
    columns = (task.c.id, task.c.seq, task.c.model, task.c.client_id, task.c.step, task.c.estimate)
    return (
        select(
            *columns,
            task.c.queue,
            task.c.avoid,
            task.c.front,
            task.c.facts,
            task.c.prefix,
            task.c.due,
            task.c.asked,
            task.c.trace,
        )
        .where(task.c.queue == bindparam("queue"), text(UNFED), task.c.front.is_(front))
        .order_by(task.c.step, task.c.due, task.c.seq)
        .limit(bindparam("most"))
    )


@cache
def _of_step(*, ordered: bool) -> Any:
    """The rows of one step that are ordered by deadline, or the others."""
    goes_by_it = task.c.due < NOT_DUE if ordered else task.c.due >= NOT_DUE
    return _head(front=False).where(task.c.step == bindparam("step"), goes_by_it)


def _message(row: Row[Any]) -> Message:
    return Message(
        task_id=row.id,
        sequence=row.seq,
        model=row.model,
        client=row.client_id,
        queue=row.queue,
        step=row.step,
        estimate=row.estimate,
        avoid=tuple(orjson.loads(row.avoid)) if row.avoid else (),
        front=row.front,
        facts=row.facts or "",
        prefix=row.prefix or "",
        due=row.due,
        asked=row.asked,
        trace=row.trace or "",
    )


@cache
def _mark() -> Update:
    free = (has_status(Status.QUEUED), task.c.hold == Hold.NONE, task.c.fed_at.is_(None))
    locked = lock_in_order(recordset(id=Text()), *free)
    return update(task).where(task.c.seq == locked.c.seq).values(fed_at=bindparam("at", type_=Double()))


@cache
def _unmark() -> Update:
    fed = (has_status(Status.QUEUED), task.c.fed_at.is_not(None))
    locked = lock_in_order(recordset(id=Text()), *fed)
    return update(task).where(task.c.seq == locked.c.seq).values(fed_at=null())


# The first row of each step, in index order: rows ordered by deadline come before the others.
_FIRST_DUE = select(
    *(
        select(task.c.due)
        .where(task.c.queue == bindparam("queue"), text(UNFED))
        .where(task.c.front.is_(False), task.c.step == int(step))
        .order_by(task.c.step, task.c.due, task.c.seq)
        .limit(1)
        .scalar_subquery()
        for step in PriorityStep
    )
)
_NEXT_DUE = select(task.c.available_at).where(text(TIMED)).order_by(task.c.available_at).limit(1)
_FED_ROWS = first_rows(FED, task.c.fed_at, task.c.seq)
_UNFEED_SOME = update(task).where(task.c.seq == _FED_ROWS.c.seq).values(fed_at=null()).returning(task.c.seq)
_AHEAD_ROWS = first_rows(f"{FED} AND fed_at > :latest", task.c.fed_at, task.c.seq)
_DATE_BACK = (
    update(task)
    .where(task.c.seq == _AHEAD_ROWS.c.seq)
    .values(fed_at=bindparam("now", type_=Double()))
    .returning(task.c.seq)
)
_LATER = (
    select(task.c.seq, task.c.id, task.c.available_at, task.c.attempts)
    .where(text(TIMED), tuple_(task.c.available_at, task.c.seq) > tuple_(bindparam("at"), bindparam("seq")))
    .order_by(task.c.available_at, task.c.seq)
    .limit(bindparam("most"))
)
_ENDED = (
    select(attempt.c.task_id, func.max(attempt.c.finished_at).label("at"))
    .where(attempt.c.task_id.in_(bindparam("ids", expanding=True)))
    .group_by(attempt.c.task_id)
)
_BRING_BACK = (
    update(task)
    .where(task.c.seq == bindparam("number"), text(TIMED), task.c.available_at == bindparam("was"))
    .values(available_at=bindparam("soon", type_=Double()))
)
_DUE_ROWS = first_rows(f"{TIMED} AND available_at <= :now", task.c.available_at)
# A leader of identical tasks, or a task that was called before, does not join again.
_JOINS = task.c.cache_key.is_not(None) & ~task.c.leads & (task.c.attempts == 0)
_PROMOTE = (
    update(task)
    .where(task.c.seq == _DUE_ROWS.c.seq)
    .values(hold=case((_JOINS, Hold.JOINING.value), else_=Hold.NONE.value))
    .returning(task.c.seq)
)
