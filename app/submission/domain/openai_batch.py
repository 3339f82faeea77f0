"""A batch as OpenAI's Batch API has it: the same rows as the native view, other words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.tasks.domain.views import counts

Row = Mapping[str, Any]  # column names of app/tasks/store/tables.py to values

_INSTANTS = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def openai_batch_view(
    row: Row, *, errors: Any = None, usage: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Show a row of `batch`; `errors` and `metadata` parsed, `usage` by the names of its columns."""
    return {
        "id": row["id"],
        "object": "batch",
        "endpoint": row["endpoint"] or "/v1/chat/completions",
        "model": row["model"],
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": row["input_file_id"] or row["id"].replace("batch_", "file_", 1),
        "completion_window": row["completion_window"] or _window(row),
        "status": row["status"],
        "output_file_id": row["output_file_id"],
        "error_file_id": row["error_file_id"],
        "created_at": int(row["created_at"]),
        **{name: None if row[name] is None else int(row[name]) for name in _INSTANTS},
        "request_counts": counts(row),
        "usage": None if usage is None else usage_view(usage),
        "metadata": row["metadata"],
    }


def usage_view(usage: Mapping[str, int]) -> dict[str, Any]:
    """Tokens in the words of the Batch API."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["reasoning_tokens"]},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }


def _window(row: Row) -> str:
    """How long a native batch may take, as it would have been written."""
    return f"{round((row['expires_at'] or row['created_at']) - row['created_at'])}s"
