"""Rows of tasks, batches, their results, calls, deliveries and files, as the other rooms read them."""

from __future__ import annotations

from dataclasses import dataclass

from app.tasks.domain.task import NOT_DUE, BatchStatus, CallbackState, Hold, Status


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task, by its columns' names; instants are Unix seconds, `metadata` and `result` JSON text."""

    seq: int
    id: str
    client_id: str
    batch_id: str | None
    batch_index: int | None
    custom_id: str | None
    model: str
    queue: str
    step: int
    status: Status
    hold: Hold
    estimate: int
    created_at: float
    available_at: float
    expires_at: float
    fed_at: float | None
    started_at: float | None  # of the first attempt
    finished_at: float | None
    attempts: int
    counted: int
    lost: int
    cancel_requested: bool
    retry: str | None
    key: str | None
    upstream_model: str | None
    error_code: str | None
    error_type: str | None
    error_message: str | None
    avoid: str | None  # JSON array of notes
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_picos: int | None
    currency: str | None
    cached: bool
    coalesced: bool
    simulated: bool
    finish: str | None  # of its answer
    callback_url: str | None
    metadata: str | None
    due: float  # deadline that orders its queue
    off_peak: bool
    degraded: bool
    estimated_start_at: float | None  # estimated at submission
    batch_paused_at: float | None  # since when its batch is paused
    result: str | None  # None in lists
    callback_status: str | None  # of its own callback, once there is one


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One upstream call."""

    task_id: str
    release: int
    key: str
    account: str
    upstream_model: str
    outcome: str
    counted: bool
    status_code: int | None
    error_message: str | None
    upstream_request_id: str | None
    released_at: float | None
    started_at: float
    first_byte_at: float | None
    finished_at: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_picos: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One delivery attempt of a callback."""

    callback_id: str
    type: str
    url: str
    status: CallbackState  # of the callback now
    number: int
    started_at: float
    finished_at: float
    status_code: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch, by its columns' names; instants are Unix seconds; `metadata`, `errors`, `usage`, `finishes` JSON."""

    seq: int
    id: str
    client_id: str
    status: BatchStatus
    total: int
    completed: int
    failed: int
    cancelled: int
    finishes: str | None
    batch_size: int | None
    callback_url: str | None
    metadata: str | None
    endpoint: str | None
    input_file_id: str | None
    completion_window: str | None
    model: str | None
    errors: str | None
    output_file_id: str | None
    error_file_id: str | None
    usage: str | None
    created_at: float
    in_progress_at: float | None
    expires_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None
    paused_at: float | None
    callback_status: str | None  # of its own callback, once there is one


@dataclass(frozen=True, slots=True)
class ResultRow:
    """The result of one line of a batch."""

    batch_index: int
    task_id: str
    custom_id: str | None
    status: Status
    model: str
    result: str | None  # JSON text
    error_code: str | None
    error_type: str | None
    error_message: str | None
    avoid: str | None  # JSON array of notes
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_picos: int | None
    currency: str | None
    simulated: bool
    finish: str | None
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file, by its columns' names; instants are Unix seconds."""

    seq: int
    id: str
    client_id: str
    purpose: str
    filename: str
    bytes: int | None
    batch_id: str | None
    kind: str | None
    created_at: float
    expires_at: float | None


@dataclass(slots=True)
class NewTask:
    """A task to insert. `metadata` and `request` are JSON text; instants are Unix seconds.

    Treat it as immutable. It is not frozen because that would double the time to create one, and a request may have
    50,000.
    """

    id: str
    client_id: str
    model: str
    queue: str
    step: int
    estimate: int  # tokens, prompt and answer together
    created_at: float
    available_at: float
    expires_at: float
    request: str  # the body for the upstream, without `model`
    hold: int = Hold.NONE
    fed_at: float | None = None
    batch_id: str | None = None
    batch_index: int | None = None
    custom_id: str | None = None
    stream: bool = False
    facts: str | None = None  # which conditions of its model's tiers it meets: see eligibility.py
    prefix: str | None = None  # digest of its system prompt
    retry: str | None = None
    callback_url: str | None = None
    metadata: str | None = None
    cache_key: str | None = None
    cache_look: bool = False  # may be answered from the cache
    cache_seconds: float | None = None  # how long its own answer is cached; None: it is not
    leads: bool = False  # identical tasks may wait for it
    stored: bool = True  # False: prompt and result are erased once delivered
    reserved_tokens: int | None = None  # what it may use of its client's budget; None: no budget
    reserved_picos: int | None = None
    reserved_at: float | None = None  # None: not reserved
    asked: int = 0  # max_tokens; 0: not set
    due: float = NOT_DUE  # its deadline, if that orders its queue
    off_peak: bool = False  # runs only off-peak
    degrade_at: float | None = None  # from when on a degraded answer may end it; None: never
    estimated_start_at: float | None = None  # as estimated now; None: unknown
    trace: str | None = None  # traceparent of the submission; None: not traced

    @property
    def joins(self) -> bool:
        """Whether it may share one upstream call with identical tasks."""
        reads_and_writes = self.cache_look and self.cache_seconds is not None
        return self.cache_key is not None and reads_and_writes and self.degrade_at is None
