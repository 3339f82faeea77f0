"""What the statements of `ending_statements` take for each attempt, and what it adds to the ledger of usage."""

from __future__ import annotations

from typing import Any

import orjson

from app.billing.domain.usage import Heading, UsageEntry, call_figures, day_of
from app.platform.domain.money import NO_SUM
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd, TaskFailure
from app.tasks.domain.task import Hold, Status


def finished(ending: AttemptEnd, was: Status, status: Status, *, leads: bool) -> dict[str, Any]:
    """To an end: `was` is the status in which the row was read, `leads` whether others go on following it."""
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
    """Back to the queue."""
    later = ending.called and ending.available_at is not None
    return {
        **_was(ending, was, status),
        "hold": Hold.UNTIL if later else Hold.NONE,
        "available_at": ending.available_at if later else None,
        "avoid": orjson.dumps(ending.avoid).decode() if ending.avoid else None,
    }


def used(ending: AttemptEnd, status: Status) -> UsageEntry:
    """What the call adds."""
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
    """The state that the row was read in, and how its counts change."""
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
    """Whose sum the attempt's cost joins. Tokens at an unknown price leave no sum."""
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
