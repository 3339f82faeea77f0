"""A batch as the world outside sees it, in API answers and in callbacks alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.platform.domain.instant import to_rfc3339

Row = Mapping[str, Any]  # column names of app/tasks/store/tables.py to values

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


def batch_view(row: Row, *, errors: Any = None, callback_status: str | None = None) -> dict[str, Any]:
    """Show a row of `batch`; its `metadata` and its `errors`, {code, message, param, line} each, parsed."""
    return {
        "id": row["id"],
        "object": "batch",
        "status": row["status"],
        "request_counts": counts(row),
        "batch_size": row["batch_size"],
        **{name: to_rfc3339(row[name]) for name in _INSTANTS},
        "errors": {"object": "list", "data": errors} if errors else None,
        "callback": {"url": row["callback_url"], "status": callback_status} if row["callback_url"] else None,
        "metadata": row["metadata"],
    }


def counts(row: Row) -> dict[str, int]:
    """Progress: `failed` counts what failed or expired; what was cancelled is the rest, once it has ended."""
    return {name: row[name] for name in ("total", "completed", "failed")}
