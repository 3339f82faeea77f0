"""What an upstream call came to."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of one attempt; stored in `attempt.outcome` and used as a metric label."""

    SUCCEEDED = "succeeded"
    RATE_LIMITED = "rate_limited"  # 429: waits for the quota, does not count
    OVERLOADED = "overloaded"  # 503 or "no capacity": does not count while the deadline stands
    UNAVAILABLE = "unavailable"  # 408, 5xx, connection: retried, counts
    TIMED_OUT = "timed_out"  # retried, counts
    MALFORMED = "malformed"  # 200 blank, truncated, not JSON: retried, counts
    INVALID_REQUEST = "invalid_request"  # 400, 422: the task fails at once
    CONTENT_REFUSED = "content_refused"
    CONTEXT_TOO_LONG = "context_too_long"
    UNAUTHORIZED = "unauthorized"  # 401: another key
    FORBIDDEN = "forbidden"  # 403: another key for this model
    NO_BALANCE = "no_balance"  # 402, or 429 insufficient_quota: another account
    UNKNOWN_MODEL = "unknown_model"  # 404: the next tier
    RESPONSE_TOO_LARGE = "response_too_large"
    LOST = "lost"  # the worker vanished
    RETURNED = "returned"  # given back before anything was sent; does not count
    CANCELLED = "cancelled"
