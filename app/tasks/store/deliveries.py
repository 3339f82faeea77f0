"""The tries at delivering a task's callbacks, as they are read."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    Connection,
    or_,
    select,
)

from app.tasks.domain.callback_state import CallbackState
from app.tasks.store.tables import callback, delivery


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One try, as the log tells it."""

    callback_id: str
    type: str
    url: str
    status: CallbackState  # of the callback now
    number: int
    started_at: float
    finished_at: float
    status_code: int | None
    error: str | None


def deliveries_of(conn: Connection, task_id: str) -> list[DeliveryAttempt]:
    """All tries to tell of a task (or a batch, by its id), oldest first."""
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
