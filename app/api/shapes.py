"""What the API answers, for /openapi.json; the tests hold real answers against it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # UTC with milliseconds
TaskStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]


class Shape(BaseModel):
    """Every field is always there."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shape):
    """Why something failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Shape):
    """The body of every refusal."""

    error: Problem


class CachedTokens(Shape):
    """Of the prompt's tokens, those the upstream had cached."""

    cached_tokens: int


class ReasoningTokens(Shape):
    """Of the answer's tokens, those spent on reasoning."""

    reasoning_tokens: int


class Usage(Shape):
    """Tokens, as the upstream counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class Cost(Shape):
    """What all upstream calls for it cost."""

    micros: int = Field(description="In millionths of the currency, rounded half up.")
    amount: str = Field(description="In the currency, exactly, such as 0.0000123.")
    currency: str | None = Field(description="Such as USD. null: nothing was paid, in no known currency.")


class Queue(Shape):
    """Why a task waits; what is not known is null."""

    position: int | None = Field(
        description="Among what you have waiting for its model at its priority, as it will be served; itself counted."
    )
    estimated_start_at: Time | None = Field(description="By that, and by how fast your tasks are let go.")
    waiting_for: str | None


class Callback(Shape):
    """Who is told of the end, and whether that has happened."""

    url: str
    status: Literal["pending", "delivering", "delivered", "failed"] | None


class Task(Shape):
    """One prompt to run."""

    id: str
    object: Literal["task"]
    status: TaskStatus
    model: str
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    attempts: int = Field(description="Upstream calls made.")
    batch_id: str | None
    custom_id: str | None
    priority: Literal["high", "normal", "low"]
    result: dict[str, Any] | None = Field(description="The upstream's answer, a chat completion.")
    error: Problem | None
    usage: Usage | None
    cost: Cost | None = Field(description="null: the price is unknown.")
    cached: bool = Field(description="Answered from the cache, without an upstream call.")
    coalesced: bool = Field(description="Answered by the upstream call of an identical task.")
    simulated: bool
    degraded: bool = Field(description="Answered by the configured text for when nobody can, as was allowed.")
    queue: Queue | None = Field(description="Only while it waits.")
    callback: Callback | None
    metadata: dict[str, str] | None


class Deleted(Shape):
    """Something that is gone."""

    id: str
    object: Literal["task.deleted"]
    deleted: bool


class Refused(Shape):
    """Why no more was admitted."""

    code: str | None
    message: str


class RetriedTasks(Shape):
    """Failed tasks that run again."""

    object: Literal["retried_tasks"]
    retried: int = Field(description="How many new tasks there are.")
    task_ids: list[str] = Field(description="Theirs, in the order of the tasks whose place they take.")
    has_more: bool = Field(description="Others of the kind are left.")
    refused: Refused | None = Field(description="Why it ended early.")


class TaskList(Shape):
    """A page of tasks, newest first. Results are not among it."""

    object: Literal["list"]
    data: list[Task]
    has_more: bool
    first_id: str | None
    last_id: str | None = Field(description="Pass it as `after` for the next page.")


class Attempt(Shape):
    """One upstream call for a task."""

    object: Literal["attempt"]
    number: int = Field(description="From 1.")
    outcome: str
    counted: bool = Field(description="Whether it used up one of the retry policy's attempts.")
    key: str
    upstream_model: str
    status_code: int | None
    error_message: str | None
    upstream_request_id: str | None
    started_at: Time
    first_byte_at: Time | None
    finished_at: Time
    usage: Usage | None
    cost: Cost | None


class AttemptList(Shape):
    """All upstream calls for a task, in order."""

    object: Literal["list"]
    data: list[Attempt]


class Delivery(Shape):
    """One try at telling a callback."""

    object: Literal["delivery"]
    callback_id: str = Field(description="Also the `webhook-id` of the request.")
    type: str
    url: str
    number: int = Field(description="From 1.")
    started_at: Time
    finished_at: Time
    status_code: int | None
    error: str | None


class DeliveryList(Shape):
    """All tries at telling a task's callbacks, in order."""

    object: Literal["list"]
    data: list[Delivery]


class Counts(Shape):
    """A batch's progress."""

    total: int
    completed: int
    failed: int = Field(description="Those that failed or expired; the rest of an ended batch was cancelled.")


class BatchProblem(Shape):
    """What was wrong with a line."""

    code: str | None
    message: str
    param: str | None
    line: int | None


class BatchProblems(Shape):
    """What was wrong with a batch."""

    object: Literal["list"]
    data: list[BatchProblem]


class Batch(Shape):
    """Tasks submitted together."""

    id: str
    object: Literal["batch"]
    status: BatchStatus
    request_counts: Counts
    batch_size: int | None
    created_at: Time
    in_progress_at: Time | None
    expires_at: Time | None
    finalizing_at: Time | None
    completed_at: Time | None
    failed_at: Time | None
    expired_at: Time | None
    cancelling_at: Time | None
    cancelled_at: Time | None
    paused_at: Time | None
    errors: BatchProblems | None
    callback: Callback | None
    metadata: dict[str, str] | None


class AcceptedBatch(Batch):
    """A batch that has been taken in whole."""

    task_ids: list[str] = Field(description="The first 1,000, in the order of the requests.")


class ResultLine(Shape):
    """One ended task of a batch."""

    index: int = Field(description="Its place among the requests, from 0.")
    custom_id: str | None
    task_id: str
    status: TaskStatus
    result: dict[str, Any] | None
    error: Problem | None
    usage: Usage | None
    cost: Cost | None


class Health(Shape):
    """Whether it works."""

    status: Literal["ok"]
