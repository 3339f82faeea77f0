"""What a callback says: an event about a task or a batch."""

from __future__ import annotations

from typing import Any

from app.platform.domain.instant import to_rfc3339

MAX_RESULT_BYTES = 256 * 1024  # of the upstream's answer inside an event; a longer one is fetched


def event(callback_id: str, kind: str, created_at: float, data: dict[str, Any]) -> dict[str, Any]:
    """The body of a callback. `kind` is `task.succeeded`, `batch.completed` and the like.

    It is the same for every try, so that a receiver may compare.
    """
    return {
        "id": callback_id,
        "object": "event",
        "type": kind,
        "created_at": to_rfc3339(created_at),
        "data": data,
    }


def with_result_url(task: dict[str, Any], public_url: str) -> dict[str, Any]:
    """A task whose result is too large for an event: where to get it, instead of it.

    `public_url` is where clients reach the API; empty: only the path is given.
    """
    return {**task, "result": None, "result_url": f"{public_url.rstrip('/')}/v1/tasks/{task['id']}"}
