"""The stages of an attempt. Each is a type of its own, so that none can be skipped.

Message -> Permit (redeemed) -> Claimed (the row is ours) -> AttemptEnd (recorded) -> Settlement (permit released).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from app.platform.domain.money import CallCost
from app.tasks.domain.task import NOT_DUE, Status


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
    RETURNED = "returned"  # returned before anything was sent; does not count
    CANCELLED = "cancelled"


class Finish(StrEnum):
    """How an answer finished, worst first; stored in `task.finish`."""

    CONTENT_FILTER = "content_filter"  # withheld or cut by a filter
    EMPTY = "empty"
    REASONING_ONLY = "reasoning_only"  # reasoning without an answer
    TRUNCATED = "truncated"  # by the limit on tokens
    REFUSED = "refused"  # the model says that it will not answer
    INVALID_JSON = "invalid_json"  # not the JSON, or not the schema, that was asked for
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Message:
    """What travels through Celery for a task: ids and routing facts, never the prompt."""

    task_id: str
    sequence: int
    model: str
    client: str
    queue: str  # backlog.<model>.<client>
    step: int
    estimate: int  # tokens, prompt and answer together
    avoid: tuple[str, ...] = ()  # keys to avoid while others can serve
    front: bool = False  # a retry returns to the front
    facts: str = ""  # which conditions of tiers it meets: see eligibility.py
    prefix: str = ""  # digest of its system prompt, for prefix affinity
    due: float = NOT_DUE  # deadline that orders its queue
    asked: int = 0  # max_tokens; 0: not set
    trace: str = ""  # traceparent of the submission; empty: not traced


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one upstream call now, as redeemed by a worker."""

    task_id: str
    release: int
    key: str
    upstream: str
    account: str
    upstream_model: str
    quotas: tuple[str, ...]
    estimate: int
    released_at: float  # Redis time, Unix seconds
    # Worker's monotonic clock: when the send was counted on its quotas; None: counted on arrival.
    counted_at: float | None = field(default=None, compare=False)
    proved_at: float = 0.0  # monotonic: release of the last call that succeeded with this key
    tested_at: float = 0.0  # monotonic: when the key's own test last succeeded


@dataclass(frozen=True, slots=True)
class RefusedPermit:
    """Why a permit could not be redeemed: `missing`, `stale`, `braked`, `epoch` or `unreachable`."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's request to run a queued row under a permit."""

    permit: Permit
    worker: str  # the incarnation
    at: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row that this worker owns until it ends or releases it."""

    permit: Permit
    worker: str
    client_id: str
    batch_id: str | None
    model: str
    request: str  # JSON: the body for the upstream, without `model`
    attempts: int  # calls made before this one
    counted: int  # of these, the calls that counted
    lost: int
    avoid: tuple[str, ...]
    retry: str | None  # name of the requested retry policy
    created_at: float
    started_at: float  # of this attempt
    expires_at: float
    callback_url: str | None
    metadata: str | None
    cache_key: str | None = None
    cache_seconds: float | None = None  # how long to cache its answer
    stream: bool = False  # the answer is streamed
    ready_at: float | None = None  # since when it could have run
    timeout: float | None = None  # seconds of this call; None: its upstream's


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one call, as the upstream counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


_TOLD = "told"
_NO_NAME = re.compile(r"[^\w.\[\]-]+")


def told_note(param: str, code: str) -> str:
    """The note of an upstream's own `param` and `code`, for the client."""
    return ":".join((_TOLD, *(_NO_NAME.sub("_", part)[:80] for part in (param, code))))


def told_in(notes: Iterable[str]) -> tuple[str | None, str | None]:
    """The upstream's `param` and `code` among what a task remembers."""
    told = [note.split(":") for note in notes if note.startswith(f"{_TOLD}:") and note.count(":") == 2]
    return (told[-1][1] or None, told[-1][2] or None) if told else (None, None)


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Why a task ended without a result, by the fields of the error envelope."""

    type: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """The end of one attempt, and the next state of its row.

    `status` QUEUED requeues the row at `available_at`, at the front of its queue. `counts`: the attempt uses up one of
    the policy's tries; `called`: something was sent upstream.
    """

    claimed: Claimed
    outcome: Outcome
    status: Status
    finished_at: float
    called: bool = True
    counts: bool = False
    available_at: float | None = None
    avoid: tuple[str, ...] = ()
    result: str | None = None  # JSON, when succeeded or withheld by a filter
    finish: Finish | None = None  # of its answer, if the task ends with one
    failure: TaskFailure | None = None
    usage: TokenUsage | None = None
    cost: CallCost | None = None  # None: nothing was used, or the price is unknown
    simulated: bool = False
    status_code: int | None = None
    error_message: str | None = None  # of the attempt, also when the task will be retried
    upstream_request_id: str | None = None
    sent_at: float | None = None
    first_byte_at: float | None = None


@dataclass(frozen=True, slots=True)
class Brake:
    """An order to release nothing on a quota for a while."""

    quota: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """The release of a permit: slots and unused tokens are freed, the outcome goes to the dispatcher."""

    task_id: str
    release: int
    outcome: Outcome
    tokens: int | None = None  # really used; None keeps the reservation
    brakes: tuple[Brake, ...] = ()
    ended: bool = False  # the task ended: notify waiters
    called: bool = True  # False: nothing was sent, the whole reservation is freed
    seconds: float = 0.0  # duration of the call
    hints: dict[str, str] = field(default_factory=dict)  # rate-limit headers of the upstream
    named: str | None = None  # the limit named by a refusal: calls, pace or tokens
    usage: TokenUsage | None = None  # as counted by the upstream
    asked: float | None = None  # seconds to wait, from a refusal's Retry-After
    status: int | None = None  # HTTP status
    words: str = ""  # the upstream's error text, where it may concern a key or account


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of recording an AttemptEnd: whether the row was still ours, and the callbacks now pending."""

    task_id: str
    held: bool
    status: Status | None = None  # as recorded: a requested cancellation turns a retry into `cancelled`
    callbacks: tuple[str, ...] = ()
    followers: tuple[str, ...] = ()  # identical tasks that ended with its answer


Refusal = Literal["full", "memory", "behind", "held", "epoch", "unreachable"]
