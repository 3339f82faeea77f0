"""A task as the world outside sees it, in API answers and in callbacks alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.platform.domain.instant import to_rfc3339
from app.platform.domain.money import amount, micros
from app.tasks.domain.task import PriorityStep

Row = Mapping[str, Any]  # column names of app/tasks/store/tables.py to values


def task_view(
    row: Row,
    *,
    result: Any = None,
    queue: Mapping[str, Any] | None = None,
    callback_status: str | None = None,
) -> dict[str, Any]:
    """Show a row of `task`; its `metadata` as parsed JSON, `result` as the upstream's answer, parsed.

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
        "degraded": bool(row["degraded"]),
        "queue": dict(queue) if queue is not None else None,
        "callback": {"url": row["callback_url"], "status": callback_status} if row["callback_url"] else None,
        "metadata": row["metadata"],
    }


def error_view(row: Row) -> dict[str, Any] | None:
    """Why it failed, in the envelope's words; None when it did not. A code alone says why a queued task waits."""
    if row["error_type"] is None and row["error_message"] is None:
        return None
    return {
        "message": row["error_message"],
        "type": row["error_type"],
        "param": None,
        "code": row["error_code"],
    }


def usage_view(row: Row) -> dict[str, Any] | None:
    """Tokens in the words of chat completions."""
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
    """What it cost, exactly and in millionths of the currency; None when a price is unknown."""
    if row["cost_picos"] is None:
        return None
    exact = amount(row["cost_picos"])
    return {"micros": micros(row["cost_picos"]), "amount": exact, "currency": row["currency"]}
