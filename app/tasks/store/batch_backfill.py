"""Batches too large for one transaction: their rows follow the batch's state a part at a time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, text

from app.tasks.domain.batch import BatchStatus
from app.tasks.store.batch_slots import hold_back, resume, set_sweeping
from app.tasks.store.locks import lock_batches
from app.tasks.store.tables import SWEEPING, batch
from app.tasks.store.transitions import cancel_waiting

_BATCHES = 20  # looked at in one transaction


def sweep(conn: Connection, now: float, limit: int) -> int:
    """Let go, hold back, or cancel, up to `limit` more rows of each batch that has some left; gives back how many."""
    chosen = select(batch.c.id).where(text(SWEEPING)).order_by(batch.c.id).limit(_BATCHES)
    rows = lock_batches(conn, conn.execute(chosen).scalars())
    return sum(_sweep(conn, row, now, limit) for row in rows.values())


def _sweep(conn: Connection, row: Row[Any], now: float, limit: int) -> int:
    if row.status == BatchStatus.IN_PROGRESS and row.paused_at is not None:
        moved, _ = hold_back(conn, row.id, limit)
    elif row.status == BatchStatus.IN_PROGRESS:
        moved = resume(conn, row, now, limit)
    else:
        moved = len(cancel_waiting(conn, row, now, limit))
    if moved < limit:
        set_sweeping(conn, row.id, False)
    return moved
