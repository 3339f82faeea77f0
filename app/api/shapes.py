"""The API's response models for /openapi.json; tests validate real responses against them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # UTC with milliseconds
TaskStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]


class Shape(BaseModel):
    """A response model; every field is always present."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shape):
    """Why something failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Shape):
    """The body of every error response."""

    error: Problem


class CachedTokens(Shape):
    """Prompt tokens that the upstream had cached."""

    cached_tokens: int


class ReasoningTokens(Shape):
    """Completion tokens spent on reasoning."""

    reasoning_tokens: int


class Usage(Shape):
    """Tokens as counted by the upstream."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class Cost(Shape):
    """The cost of all upstream calls for the object."""

    micros: int = Field(description="In millionths of the currency, rounded half up.")
    amount: str = Field(description="Exact amount in the currency, such as 0.0000123.")
    currency: str | None = Field(
        description="Such as USD; null if nothing was paid and no currency is known."
    )


class Queue(Shape):
    """Why a task is waiting; unknown values are null."""

    position: int | None = Field(
        description="Position among your waiting tasks of the same model and priority, from 1."
    )
    estimated_start_at: Time | None = Field(
        description="Estimated from the position and the rate at which your tasks start."
    )
    waiting_for: str | None


class Callback(Shape):
    """Where the end of the object is reported, and the state of the delivery."""

    url: str
    status: Literal["pending", "delivering", "delivered", "failed"] | None


FinishName = Literal[
    "complete", "empty", "reasoning_only", "truncated", "refused", "content_filter", "invalid_json"
]
_FINISH = (
    "How the answer finished. `empty`: nothing in it; `reasoning_only`: reasoning without an answer; `truncated`: by "
    "the limit on tokens; `refused`: by the model; `content_filter`: withheld or cut by the provider; `invalid_json`: "
    "not the JSON that `response_format` asks for. null: there is no answer."
)


class Task(Shape):
    """A prompt to run."""

    id: str
    object: Literal["task"]
    status: TaskStatus
    model: str
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    attempts: int = Field(description="Number of upstream calls.")
    batch_id: str | None
    custom_id: str | None
    priority: Literal["high", "normal", "low"]
    result: dict[str, Any] | None = Field(description="The upstream's response, a chat completion.")
    error: Problem | None
    usage: Usage | None
    cost: Cost | None = Field(description="null if the price is unknown.")
    cached: bool = Field(description="Answered from the cache, without an upstream call.")
    coalesced: bool = Field(description="Answered by the upstream call of an identical task.")
    simulated: bool
    finish: FinishName | None = Field(description=_FINISH)
    degraded: bool = Field(description="Answered with the configured fallback text, as the request allowed.")
    queue: Queue | None = Field(description="Only while the task is waiting.")
    callback: Callback | None
    metadata: dict[str, str] | None


class Deleted(Shape):
    """A deleted object."""

    id: str
    object: Literal["task.deleted"]
    deleted: bool


class Refused(Shape):
    """Why no more tasks were admitted."""

    code: str | None
    message: str


class RetriedTasks(Shape):
    """The outcome of a retry of failed tasks."""

    object: Literal["retried_tasks"]
    retried: int = Field(description="Number of new tasks.")
    task_ids: list[str] = Field(description="Ids of the new tasks, in the order of the tasks they replace.")
    has_more: bool = Field(description="Whether more matching tasks remain.")
    refused: Refused | None = Field(description="Why it stopped early.")


class TaskList(Shape):
    """A page of tasks, newest first, without results."""

    object: Literal["list"]
    data: list[Task]
    has_more: bool
    first_id: str | None
    last_id: str | None = Field(description="Pass this as `after` for the next page.")


class Attempt(Shape):
    """One upstream call for a task."""

    object: Literal["attempt"]
    number: int = Field(description="From 1.")
    outcome: str
    counted: bool = Field(description="Whether it counts as one of the retry policy's attempts.")
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
    """One delivery attempt of a callback."""

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
    """All delivery attempts of a task's callbacks, in order."""

    object: Literal["list"]
    data: list[Delivery]


class Counts(Shape):
    """A batch's progress."""

    total: int
    completed: int
    failed: int = Field(description="Failed or expired; the rest of an ended batch was cancelled.")


class BatchProblem(Shape):
    """A validation error of a line."""

    code: str | None
    message: str
    param: str | None
    line: int | None


class BatchProblems(Shape):
    """The validation errors of a batch."""

    object: Literal["list"]
    data: list[BatchProblem]


class Batch(Shape):
    """Tasks submitted together."""

    id: str
    object: Literal["batch"]
    status: BatchStatus
    request_counts: Counts
    finish_counts: dict[str, int] = Field(
        description="Answers that are not `complete`, counted by their `finish`."
    )
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
    """A batch that has been accepted completely."""

    task_ids: list[str] = Field(description="The first 1,000 task ids, in the order of the requests.")


class ResultLine(Shape):
    """One ended task of a batch."""

    index: int = Field(description="Index of the request, from 0.")
    custom_id: str | None
    task_id: str
    status: TaskStatus
    result: dict[str, Any] | None
    error: Problem | None
    finish: FinishName | None = Field(description=_FINISH)
    usage: Usage | None
    cost: Cost | None


class Health(Shape):
    """The health of a process."""

    status: Literal["ok"]
