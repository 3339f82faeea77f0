"""The two statements by which attempts leave their rows: to an end, or back to the queue.

Both take, for every row, the state in which it was read: they change nothing that moved on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Case,
    Double,
    FromClause,
    Integer,
    Text,
    Update,
    case,
    func,
    literal,
    null,
    update,
)
from sqlalchemy.types import TypeEngine

from app.platform.dialects import recordset
from app.platform.domain.money import NO_SUM
from app.tasks.store.batch_slots import hold_unless_paused
from app.tasks.store.tables import task
from app.tasks.store.transitions import requeued_columns

_WAS: dict[str, TypeEngine[Any]] = {
    "id": Text(),
    "was": Text(),
    "worker": Text(),
    "release": BigInteger(),
    "status": Text(),
    "returned": Integer(),
    "counted": Integer(),
    "cost_picos": BigInteger(),
    "currency": Text(),
}
_TOLD: dict[str, TypeEngine[Any]] = {
    "finished_at": Double(),
    "error_type": Text(),
    "error_code": Text(),
    "error_message": Text(),
    "prompt_tokens": Integer(),
    "completion_tokens": Integer(),
    "cached_tokens": Integer(),
    "reasoning_tokens": Integer(),
    "simulated": Boolean(),
    "leads": Boolean(),
}
FINISHED: Mapping[str, TypeEngine[Any]] = {**_WAS, **_TOLD}


def _update(wanted: FromClause) -> Update:
    """From the state that was read; the counts change alike whether a task ends or not."""
    spent = func.coalesce(task.c.cost_picos, 0) + wanted.c.cost_picos
    currency = _currency(wanted)
    return (
        update(task)
        .where(
            task.c.id == wanted.c.id,
            task.c.status == wanted.c.was,
            task.c.worker == wanted.c.worker,
            task.c.release == wanted.c.release,
        )
        .values(
            status=wanted.c.status,
            attempts=task.c.attempts - wanted.c.returned,
            counted=task.c.counted + wanted.c.counted,
            cost_picos=case((currency == NO_SUM, null()), else_=func.coalesce(spent, task.c.cost_picos)),
            currency=currency,
        )
    )


def _currency(wanted: FromClause) -> Case[Any]:
    """The task's currency after this attempt; NO_SUM once there are two of them, or an unknown price."""
    first = task.c.currency.is_(None) | (task.c.currency == wanted.c.currency)
    return case(
        (wanted.c.currency.is_(None), task.c.currency), (first, wanted.c.currency), else_=literal(NO_SUM)
    )


def finish(wanted: FromClause) -> Update:
    """To an end, with what is told of it; `wanted` has the columns FINISHED."""
    return _update(wanted).values({name: wanted.c[name] for name in _TOLD})


@cache
def finish_statement(dialect: str) -> Update:
    """The same for a recordset."""
    return finish(recordset(dialect, **FINISHED))


@cache
def requeue_statement(dialect: str) -> Update:
    """Back to the front of its queue; `release` goes too, so that nothing late can come for it."""
    wanted = recordset(dialect, hold=Integer(), available_at=Double(), avoid=Text(), **_WAS)
    unsent = wanted.c.returned == 1
    return _update(wanted).values(
        hold=hold_unless_paused(wanted.c.hold),
        available_at=func.coalesce(wanted.c.available_at, task.c.available_at),
        avoid=case((unsent, task.c.avoid), else_=wanted.c.avoid),
        started_at=case((unsent & (task.c.attempts == 1), null()), else_=task.c.started_at),
        **requeued_columns(),
    )
