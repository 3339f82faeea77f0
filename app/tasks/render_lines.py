"""Lines of a batch as OpenAI's files have them, out of their rows."""

from __future__ import annotations

from typing import Any

import orjson

from app.platform.domain.json_text import one_line
from app.tasks.domain.task import Status
from app.tasks.domain.views import failure_status
from app.tasks.store.batches import InputRow, LineRow

ENDPOINT = "/v1/chat/completions"
_UNANSWERED = {
    Status.CANCELLED: ("batch_cancelled", "This request was cancelled before it had an answer."),
    Status.EXPIRED: ("batch_expired", "This request had no answer before the batch expired."),
}


def output_line(row: LineRow) -> bytes:
    """A line that succeeded, its newline included."""
    body = orjson.Fragment(one_line(row.result)) if row.result is not None else None
    return _line(row, {"status_code": 200, "request_id": row.task_id, "body": body}, None)


def error_line(row: LineRow) -> bytes:
    """A line that did not: with the answer that it would have had, or with the reason why there is none."""
    if row.status in _UNANSWERED:
        code, message = _UNANSWERED[row.status]
        return _line(row, None, {"code": code, "message": message})
    if row.error_code == "upstream_timeout":
        return _line(row, None, {"code": "request_timeout", "message": row.error_message})
    problem = {
        "message": row.error_message,
        "type": row.error_type,
        "param": None,
        "code": row.error_code,
    }
    answer = {
        "status_code": failure_status(row.error_code),
        "request_id": row.task_id,
        "body": {"error": problem},
    }
    return _line(row, answer, None)


def input_line(row: InputRow) -> bytes:
    """A line as it was asked, for batches that came without a file."""
    body = {"model": row.model, **orjson.loads(row.request or "{}")}
    line = {
        "custom_id": _name(row.custom_id, row.batch_index),
        "method": "POST",
        "url": ENDPOINT,
        "body": body,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _line(row: LineRow, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {
        "id": row.task_id,
        "custom_id": _name(row.custom_id, row.batch_index),
        "response": response,
        "error": error,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _name(custom_id: str | None, index: int) -> str:
    return custom_id if custom_id is not None else f"request-{index}"
