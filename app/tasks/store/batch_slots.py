"""Rows of a batch that wait for a slot (Hold.BATCH) or are paused (Hold.PAUSED), and how they are admitted.

With a `batch_size`, that many are admitted when the batch begins, and one more whenever one of them ends. Without
one, all are: the first part when the batch begins, the rest a part at a time (`feeding.backfill_batches`),
so that no transaction is long.
A paused row keeps its slot: within a `batch_size` it counts as in flight.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Case, ColumnElement, Connection, Row, case, exists, func, null, select, text, update

from app.tasks.domain.task import Hold, Status
from app.tasks.store.tables import HELD_BY_BATCH, QUEUED, batch, task

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
