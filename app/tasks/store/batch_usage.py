"""What the tasks of a batch have used, those among them that were run again."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from app.tasks.domain.batch import BATCH_ENDS
from app.tasks.store.tables import batch, task

_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class BatchUsed:
    """Sums over all tasks; money in pico-units, None where it has no one sum."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_picos: int | None
    currency: str | None


def batch_used(conn: Connection, batch_id: str) -> BatchUsed:
    """Add up."""
    tokens = [func.coalesce(func.sum(task.c[name]), 0).label(name) for name in _TOKENS]
    money = [
        func.sum(task.c.cost_picos).label("cost"),
        func.count(func.distinct(task.c.currency)).label("currencies"),
        func.max(task.c.currency).label("currency"),
    ]
    row = conn.execute(select(*tokens, *money).where(task.c.batch_id == batch_id)).one()
    one = row.currencies == 1 and row.cost is not None
    sums = {name: int(getattr(row, name)) for name in _TOKENS}
    return BatchUsed(
        **sums, cost_picos=int(row.cost) if one else None, currency=row.currency if one else None
    )


def keep_usage(conn: Connection, batch_id: str, usage: str) -> None:
    """Keep the sums of a batch that has ended; `usage` is JSON text."""
    ended = batch.c.status.in_([status.value for status in BATCH_ENDS])
    conn.execute(update(batch).where(batch.c.id == batch_id, ended).values(usage=usage))
