"""How attempts leave their rows: to an end or back to the queue, and what they add to the usage ledger.

Every row carries the state in which it was read: the two statements change nothing that has moved on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
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

from app.billing.domain.usage import Heading, UsageEntry, call_figures, day_of
from app.platform.dialects import recordset
from app.platform.domain.money import NO_SUM
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd, TaskFailure
from app.tasks.domain.task import Hold, Status
from app.tasks.store.batch_slots import hold_unless_paused
from app.tasks.store.tables import task
from app.tasks.store.transitions import requeued_columns


def finished(ending: AttemptEnd, was: Status, status: Status, *, leads: bool) -> dict[str, Any]:
    """The row of an attempt that ends its task. `was`: the status read; `leads`: whether others keep following it."""
    usage = ending.usage
    return {
        **_was(ending, was, status),
        **_error(ending.failure if status is not Status.CANCELLED else None),
        "finished_at": ending.finished_at,
        "prompt_tokens": usage and usage.prompt_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "simulated": ending.simulated,
        "leads": leads,
    }


def requeued(ending: AttemptEnd, was: Status, status: Status) -> dict[str, Any]:
    """The row of an attempt that sends its task back to the queue."""
    later = ending.called and ending.available_at is not None
    return {
        **_was(ending, was, status),
        "hold": Hold.UNTIL if later else Hold.NONE,
        "available_at": ending.available_at if later else None,
        "avoid": orjson.dumps(ending.avoid).decode() if ending.avoid else None,
    }


def used(ending: AttemptEnd, status: Status) -> UsageEntry:
    """The usage that the call adds."""
    permit = ending.claimed.permit
    heading = Heading(
        day_of(ending.finished_at),
        ending.claimed.client_id,
        ending.claimed.model,
        permit.key,
        permit.account,
        permit.upstream_model,
        ending.cost.currency if ending.cost else "",
    )
    return UsageEntry(heading, call_figures(ending.usage, ending.cost, succeeded=status is Status.SUCCEEDED))


def _was(ending: AttemptEnd, was: Status, status: Status) -> dict[str, Any]:
    """The state in which the row was read, and how its counts change."""
    return {
        "id": ending.claimed.permit.task_id,
        "was": was,
        "worker": ending.claimed.worker,
        "release": ending.claimed.permit.release,
        "status": status,
        "returned": 0 if ending.called else 1,
        "counted": 1 if ending.counts and ending.called else 0,
        "cost_picos": ending.cost and ending.cost.picos,
        "currency": _currency(ending),
    }


def _currency(ending: AttemptEnd) -> str | None:
    """The currency that the attempt's cost is in. Tokens at an unknown price make the sum unknown."""
    if ending.cost is not None:
        return ending.cost.currency
    return NO_SUM if ending.called and ending.usage is not None else None


def _error(failure: TaskFailure | None) -> dict[str, Any]:
    if failure is None:
        return {}
    return {
        "error_type": failure.type,
        "error_code": failure.code,
        "error_message": seal(failure.message),
    }


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
_RESULT_COLUMNS: dict[str, TypeEngine[Any]] = {
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
FINISHED: Mapping[str, TypeEngine[Any]] = {**_WAS, **_RESULT_COLUMNS}


def _update(wanted: FromClause) -> Update:
    """From the state that was read. Counts change in the same way whether the task ends or not."""
    spent = func.coalesce(task.c.cost_picos, 0) + wanted.c.cost_picos
    currency = _currency_after(wanted)
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


def _currency_after(wanted: FromClause) -> Case[Any]:
    """The task's currency after this attempt: NO_SUM once there are two, or an unknown price."""
    first = task.c.currency.is_(None) | (task.c.currency == wanted.c.currency)
    return case(
        (wanted.c.currency.is_(None), task.c.currency), (first, wanted.c.currency), else_=literal(NO_SUM)
    )


def finish(wanted: FromClause) -> Update:
    """End tasks. `wanted` has the columns FINISHED."""
    return _update(wanted).values({name: wanted.c[name] for name in _RESULT_COLUMNS})


@cache
def finish_statement() -> Update:
    """`finish` for a recordset."""
    return finish(recordset(**FINISHED))


@cache
def requeue_statement() -> Update:
    """Back to the front of its queue, without its `release`, so that nothing late can match it."""
    wanted = recordset(hold=Integer(), available_at=Double(), avoid=Text(), **_WAS)
    unsent = wanted.c.returned == 1
    return _update(wanted).values(
        hold=hold_unless_paused(wanted.c.hold),
        available_at=func.coalesce(wanted.c.available_at, task.c.available_at),
        avoid=case((unsent, task.c.avoid), else_=wanted.c.avoid),
        started_at=case((unsent & (task.c.attempts == 1), null()), else_=task.c.started_at),
        **requeued_columns(),
    )
