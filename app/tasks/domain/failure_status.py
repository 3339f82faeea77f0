"""The HTTP status that a failed task's code stands for, where its answer is waited for or written down as one."""

from __future__ import annotations

from collections.abc import Mapping

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
_OTHER = 502  # the upstream gave no answer that could be used


def failure_status(code: str | None) -> int:
    """What a task that failed with this code would have been answered with."""
    return _STATUSES.get(code or "", _OTHER)
