"""Tasks and batches: ids, states, priorities, the queues that a task passes through, how a batch advances."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]  # two characters for ten bits
_SHIFTS = tuple(range(120, -1, -10))
_counter = itertools.count(int.from_bytes(os.urandom(3)))
_lock = threading.Lock()
_last_ms = 0
_chance = (
    bytearray()
)  # drawn ahead: a system call per id would release the GIL 50,000 times for a large batch
os.register_at_fork(after_in_child=_chance.clear)  # parent and child must not share random bytes
_CHANCE_BYTES = 7


class Status(StrEnum):
    """States of a task. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether this state is final."""
        return self in ENDS


ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


class Priority(StrEnum):
    """Priorities of a request. `step` is kombu's priority step: 0 is taken first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def step(self) -> PriorityStep:
        """The step of the backlog list that holds tasks of this priority."""
        return PriorityStep[self.name]


class PriorityStep(IntEnum):
    """kombu's priority steps in use; a message without priority lands in 0, the highest."""

    HIGH = 0
    NORMAL = 3
    LOW = 6


NOT_DUE = 1e12  # `due` of a task that is not ordered by its deadline: behind all that are


class Hold(IntEnum):
    """Why a queued row may not be enqueued in Redis now."""

    NONE = 0
    UNTIL = 1  # waits for `available_at`
    BATCH = 2  # waits for a slot within its batch's `batch_size`
    PAUSED = 3
    JOINING = 4  # waits to be answered from the cache, or to join identical tasks
    FOLLOWING = 5  # waits for the answer of an identical task
    BUDGET = 6  # waits for room in its client's budget
    OFF_PEAK = 7  # waits for its upstream's off-peak hours


def new_id(kind: str, now: float) -> str:
    """Make a time-ordered id such as `task_06f3...`: 48 bits of milliseconds, 24 of sequence, 56 random.

    Ids made by one process are strictly increasing while its clock does not step back.
    """
    global _last_ms  # noqa: PLW0603 - one clock for all ids of the process
    with _lock:
        _last_ms = max(_last_ms, int(now * 1000))
        value = _last_ms << 24 | next(_counter) & 0xFFFFFF
        if not _chance:
            _chance.extend(os.urandom(_CHANCE_BYTES * 256))
        value = value << 56 | int.from_bytes(_chance[-_CHANCE_BYTES:])
        del _chance[-_CHANCE_BYTES:]
    return f"{kind}_" + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


class CallbackState(StrEnum):
    """States of a callback. FAILED is a dead letter; a replay makes it PENDING again."""

    PENDING = "pending"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    FAILED = "failed"


# The request itself was rejected, and would be again.
FINAL = frozenset({"invalid_request", "content_filter", "context_length_exceeded", "response_too_large"})


def may_run_again(status: str, error_code: str | None, replaced_by: str | None = None) -> bool:
    """Whether a task that ended this way may be run again; once, by a new task that replaces it."""
    if replaced_by is not None or status not in (Status.FAILED, Status.EXPIRED):
        return False
    return error_code not in FINAL


class BatchStatus(StrEnum):
    """States of a batch, as in OpenAI's API. `failed` means that its input was rejected."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether this state is final."""
        return self in BATCH_ENDS


BATCH_ENDS = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)
_RUNS = frozenset({BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING})


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """Counters of a batch. `completed` counts successes; `failed` includes expired tasks."""

    status: BatchStatus
    total: int
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expires_at: float | None = None

    @property
    def open(self) -> int:
        """Tasks that have not ended."""
        return self.total - self.completed - self.failed - self.cancelled


def advance(
    before: BatchProgress, *, completed: int, failed: int, cancelled: int, at: float
) -> BatchProgress:
    """Count tasks that ended; the last one ends the batch.

    A batch being cancelled ends `cancelled`; one with failures and past its deadline, `expired`; any other,
    `completed`. A batch whose input is still arriving has no last task yet.
    """
    after = replace(
        before,
        completed=before.completed + completed,
        failed=before.failed + failed,
        cancelled=before.cancelled + cancelled,
    )
    if after.status not in _RUNS or after.open > 0:
        return after
    return replace(after, status=_end(after, at))


def _end(progress: BatchProgress, at: float) -> BatchStatus:
    if progress.status is BatchStatus.CANCELLING:
        return BatchStatus.CANCELLED
    if progress.failed and progress.expires_at is not None and at >= progress.expires_at:
        return BatchStatus.EXPIRED
    return BatchStatus.COMPLETED


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
