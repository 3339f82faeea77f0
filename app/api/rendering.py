"""Renders rows of tasks, batches, attempts and deliveries as JSON values."""

from __future__ import annotations

from typing import Any

import orjson

from app.api.responses import page, raw
from app.pacing.ports import Explain, Queued
from app.platform.domain.times import to_rfc3339
from app.tasks.domain.task import Status
from app.tasks.domain.views import batch_view, cost_view, error_view, task_view, usage_view
from app.tasks.read_tasks import TaskPage
from app.tasks.store.batches import BatchRow, ResultRow
from app.tasks.store.submissions import NewTask
from app.tasks.store.tasks import AttemptRow, DeliveryAttempt, TaskRow

_NULL_FIELDS = (
    "started_at",
    "finished_at",
    "error_code",
    "error_type",
    "error_message",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_picos",
    "currency",
)
_NEW_TASK: dict[str, Any] = {
    **dict.fromkeys(_NULL_FIELDS),
    "status": Status.QUEUED,
    "attempts": 0,
    "cached": False,
    "coalesced": False,
    "simulated": False,
    "degraded": False,
}


class Rendering:
    """Renders rows in the API's format, with the reason why a queued task waits."""

    def __init__(self, explain: Explain) -> None:
        self._explain = explain

    def task(self, row: TaskRow) -> dict[str, Any]:
        """Render a task."""
        values = {**_columns(row), "metadata": raw(row.metadata)}
        queue = self._queue(row) if row.status is Status.QUEUED else None
        return task_view(values, result=raw(row.result), queue=queue, callback_status=row.callback_status)

    def new_task(self, row: NewTask) -> dict[str, Any]:
        """Render a task that was just stored, without querying the database."""
        values = {
            **_NEW_TASK,
            "id": row.id,
            "model": row.model,
            "created_at": row.created_at,
            "batch_id": row.batch_id,
            "custom_id": row.custom_id,
            "step": row.step,
            "callback_url": row.callback_url,
            "metadata": raw(row.metadata),
        }
        starts_at = to_rfc3339(row.estimated_start_at)
        return task_view(
            values, queue={"position": None, "estimated_start_at": starts_at, "waiting_for": None}
        )

    def tasks(self, found: TaskPage) -> dict[str, Any]:
        """Render a page of tasks."""
        return page([self.task(row) for row in found.rows], has_more=found.has_more)

    def attempts(self, rows: list[AttemptRow]) -> dict[str, Any]:
        """Render the upstream calls of a task."""
        return {"object": "list", "data": [_attempt(number, row) for number, row in enumerate(rows, 1)]}

    def deliveries(self, rows: list[DeliveryAttempt]) -> dict[str, Any]:
        """Render the delivery attempts of a task's callbacks."""
        return {"object": "list", "data": [_delivery(row) for row in rows]}

    def batch(self, row: BatchRow) -> dict[str, Any]:
        """Render a batch."""
        errors = orjson.loads(row.errors) if row.errors else None
        values = {**_columns(row), "metadata": raw(row.metadata)}
        return batch_view(values, errors=errors, callback_status=row.callback_status)

    def result_line(self, row: ResultRow) -> bytes:
        """Render one line of results, including its newline."""
        values = _columns(row)
        line = {
            "index": row.batch_index,
            "custom_id": row.custom_id,
            "task_id": row.task_id,
            "status": row.status,
            "result": raw(row.result),
            "error": error_view(values),
            "usage": usage_view(values),
            "cost": cost_view(values),
        }
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def _queue(self, row: TaskRow) -> dict[str, Any]:
        why = self._explain.explain(Queued.of(row))
        return {
            "position": why.position,
            "estimated_start_at": to_rfc3339(why.estimated_start_at),
            "waiting_for": why.waiting_for,
        }


def _attempt(number: int, row: AttemptRow) -> dict[str, Any]:
    values = _columns(row)
    return {
        "object": "attempt",
        "number": number,
        "outcome": row.outcome,
        "counted": row.counted,
        "key": row.key,
        "upstream_model": row.upstream_model,
        "status_code": row.status_code,
        "error_message": row.error_message,
        "upstream_request_id": row.upstream_request_id,
        "started_at": to_rfc3339(row.started_at),
        "first_byte_at": to_rfc3339(row.first_byte_at),
        "finished_at": to_rfc3339(row.finished_at),
        "usage": usage_view(values),
        "cost": cost_view(values),
    }


def _delivery(row: DeliveryAttempt) -> dict[str, Any]:
    return {
        "object": "delivery",
        "callback_id": row.callback_id,
        "type": row.type,
        "url": row.url,
        "number": row.number,
        "started_at": to_rfc3339(row.started_at),
        "finished_at": to_rfc3339(row.finished_at),
        "status_code": row.status_code,
        "error": row.error,
    }


def _columns(row: Any) -> dict[str, Any]:
    """A row's fields by name (a shallow copy)."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
