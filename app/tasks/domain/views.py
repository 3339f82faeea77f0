"""Tasks and batches as clients see them, in API responses and in callbacks alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.platform.domain.money import amount, micros
from app.platform.domain.times import to_rfc3339
from app.tasks.domain.task import PriorityStep

Row = Mapping[str, Any]  # column names of app/tasks/store/tables.py to values


def task_view(
    row: Row,
    *,
    result: Any = None,
    queue: Mapping[str, Any] | None = None,
    callback_status: str | None = None,
) -> dict[str, Any]:
    """Render a row of `task`, its `metadata` parsed; `result` is the upstream's answer, parsed.

    `queue` is {position, estimated_start_at, waiting_for} of a task that waits.
    """
    return {
        "id": row["id"],
        "object": "task",
        "status": row["status"],
        "model": row["model"],
        "created_at": to_rfc3339(row["created_at"]),
        "started_at": to_rfc3339(row["started_at"]),
        "finished_at": to_rfc3339(row["finished_at"]),
        "attempts": row["attempts"],
        "batch_id": row["batch_id"],
        "custom_id": row["custom_id"],
        "priority": PriorityStep(row["step"]).name.lower(),
        "result": result,
        "error": error_view(row),
        "usage": usage_view(row),
        "cost": cost_view(row),
        "cached": bool(row["cached"]),
        "coalesced": bool(row["coalesced"]),
        "simulated": bool(row["simulated"]),
        "finish": row["finish"],
        "degraded": bool(row["degraded"]),
        "queue": dict(queue) if queue is not None else None,
        "callback": {"url": row["callback_url"], "status": callback_status} if row["callback_url"] else None,
        "metadata": row["metadata"],
    }


def error_view(row: Row) -> dict[str, Any] | None:
    """The error envelope of a failed task, else None. A code without type is why a queued task waits."""
    if row["error_type"] is None and row["error_message"] is None:
        return None
    return {
        "message": row["error_message"],
        "type": row["error_type"],
        "param": None,
        "code": row["error_code"],
    }


def usage_view(row: Row) -> dict[str, Any] | None:
    """Token counts, as in chat completions."""
    prompt, completion = row["prompt_tokens"], row["completion_tokens"]
    if prompt is None and completion is None:
        return None
    return {
        "prompt_tokens": prompt or 0,
        "completion_tokens": completion or 0,
        "total_tokens": (prompt or 0) + (completion or 0),
        "prompt_tokens_details": {"cached_tokens": row["cached_tokens"] or 0},
        "completion_tokens_details": {"reasoning_tokens": row["reasoning_tokens"] or 0},
    }


def cost_view(row: Row) -> dict[str, Any] | None:
    """The cost, exact and in millionths of the currency; None when a price is unknown."""
    if row["cost_picos"] is None:
        return None
    exact = amount(row["cost_picos"])
    return {"micros": micros(row["cost_picos"]), "amount": exact, "currency": row["currency"]}


_INSTANTS = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "paused_at",
)


def batch_view(
    row: Row,
    *,
    errors: Any = None,
    finishes: Mapping[str, int] | None = None,
    callback_status: str | None = None,
) -> dict[str, Any]:
    """Render a row of `batch`, its `metadata` parsed; `errors` are {code, message, param, line} each.

    `finishes`: counts of its answers that are not complete.
    """
    return {
        "id": row["id"],
        "object": "batch",
        "status": row["status"],
        "request_counts": counts(row),
        "finish_counts": dict(finishes or {}),
        "batch_size": row["batch_size"],
        **{name: to_rfc3339(row[name]) for name in _INSTANTS},
        "errors": {"object": "list", "data": errors} if errors else None,
        "callback": {"url": row["callback_url"], "status": callback_status} if row["callback_url"] else None,
        "metadata": row["metadata"],
    }


def counts(row: Row) -> dict[str, int]:
    """Progress: `failed` includes expired tasks; cancelled ones are the rest, once the batch has ended."""
    return {name: row[name] for name in ("total", "completed", "failed")}


_STATUSES: Mapping[str, int] = {
    "invalid_request": 400,
    "content_filter": 400,
    "context_length_exceeded": 400,
    "request_unauthorized": 401,
    "request_unpaid": 402,
    "request_forbidden": 403,
    "model_not_found": 404,
    "cancelled": 409,
    "worker_lost": 500,
    "upstream_timeout": 504,
    "expired": 504,
    "deadline_unreachable": 504,
}
_OTHER = 502  # the upstream gave no usable answer


def failure_status(code: str | None) -> int:
    """The HTTP status that stands for a failed task's error code."""
    return _STATUSES.get(code or "", _OTHER)
