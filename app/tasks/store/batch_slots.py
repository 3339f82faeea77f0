"""Rows of a batch that wait for their place (Hold.BATCH), and how they get it.

With a `batch_size`, so many are let go when the batch begins, and one more whenever one of them ends. Without,
all are: a first part when the batch begins, the rest step by step (`sweeps`), so that no transaction is long.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Case, Connection, case, func, select, text, update

from app.tasks.domain.task import Hold
from app.tasks.store.tables import HELD_BY_BATCH, batch, task

AT_ONCE = 5_000  # rows let go in one transaction


def begin_batch(conn: Connection, batch_id: str, now: float) -> None:
    """Let the first rows of a batch go. Its row is locked."""
    size: int | None = conn.execute(select(batch.c.batch_size).where(batch.c.id == batch_id)).scalar_one()
    if size is not None:
        admit_next(conn, batch_id, size, now)
    elif admit_next(conn, batch_id, AT_ONCE, now) == AT_ONCE:
        set_sweeping(conn, batch_id, True)


def admit_next(conn: Connection, batch_id: str, places: int, now: float) -> int:
    """Give places to the next rows of a batch; gives back how many there were. Its row is locked."""
    waiting = select(task.c.seq).where(task.c.batch_id == batch_id, text(HELD_BY_BATCH))
    chosen = waiting.order_by(task.c.seq).limit(places).subquery()
    # Up to the last of them, not one by one: PostgreSQL would compare each row with each.
    last = conn.execute(select(func.max(chosen.c.seq))).scalar()
    if last is None:
        return 0
    these = (task.c.batch_id == batch_id) & (task.c.seq <= last)
    return conn.execute(
        update(task)
        .where(these, text(HELD_BY_BATCH))
        .values(hold=begun_hold(now), degrade_at=_counting_from(now))
    ).rowcount


def _counting_from(now: float) -> Case[Any]:
    """When a row may be answered by a configured text: its wait for its tiers begins only now."""
    return case(
        (task.c.available_at < now, task.c.degrade_at + now - task.c.available_at), else_=task.c.degrade_at
    )


def begun_hold(now: float) -> Case[Any]:
    """What a row still waits for once its batch lets it go."""
    return case(
        (task.c.reserved_tokens.is_not(None) & task.c.reserved_at.is_(None), Hold.BUDGET.value),
        (task.c.off_peak & (task.c.available_at > now), Hold.OFF_PEAK.value),
        (task.c.available_at > now, Hold.UNTIL.value),
        (task.c.cache_key.is_not(None), Hold.JOINING.value),
        else_=Hold.NONE.value,
    )


def set_sweeping(conn: Connection, batch_id: str, value: bool) -> None:
    """Say whether rows of a batch have still to follow its state. Its row is locked."""
    conn.execute(update(batch).where(batch.c.id == batch_id).values(sweeping=value))
