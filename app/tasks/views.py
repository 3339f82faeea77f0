"""Tasks and batches as clients see them, in API responses and in callbacks alike: each model renders and documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, dataclass_transform

import orjson
from pydantic import ConfigDict, Field

from app.platform.domain.json_text import one_line
from app.platform.domain.money import amount, micros
from app.platform.domain.times import to_rfc3339
from app.tasks.domain.attempt import told_in
from app.tasks.domain.task import PriorityStep

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]  # UTC with milliseconds
TaskStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
FinishName = Literal[
    "complete", "empty", "reasoning_only", "truncated", "refused", "content_filter", "invalid_json"
]
_FINISH = (
    "How the answer finished. `empty`: nothing in it; `reasoning_only`: reasoning without an answer; `truncated`: by "
    "the limit on tokens; `refused`: by the model; `content_filter`: withheld or cut by the provider; `invalid_json`: "
    "not the JSON that `response_format` asks for. null: there is no answer."
)
Finish = Annotated[FinishName | None, Field(description=_FINISH)]


@dataclass_transform(kw_only_default=True)
class Shape:
    """A response model; every field is always present.

    Subclasses become dataclasses: orjson writes them, pydantic documents them, and nothing is validated twice.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __init_subclass__(cls) -> None:
        """Make the subclass a dataclass."""
        dataclass(cls, kw_only=True)


class Problem(Shape):
    """Why something failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class TaskProblem(Problem):
    """Why a task failed."""

    upstream_code: Annotated[str | None, Field(description="The upstream's own code.")]


class RequestChange(Shape):
    """A change that the upstream needed to take the request."""

    how: Literal["clamp", "rename", "drop", "role", "fit", "omit"]
    parameter: str
    value: Annotated[str | None, Field(description="The range, new name, new role or length.")]


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

    micros: Annotated[int, Field(description="In millionths of the currency, rounded half up.")]
    amount: Annotated[str, Field(description="Exact amount in the currency, such as 0.0000123.")]
    currency: Annotated[
        str | None, Field(description="Such as USD; null if nothing was paid and no currency is known.")
    ]


class Queue(Shape):
    """Why a task is waiting; unknown values are null."""

    position: Annotated[
        int | None,
        Field(description="Position among your waiting tasks of the same model and priority, from 1."),
    ]
    estimated_start_at: Annotated[
        Time | None, Field(description="Estimated from the position and the rate at which your tasks start.")
    ]
    waiting_for: str | None


class Callback(Shape):
    """Where the end of the object is reported, and the state of the delivery."""

    url: str
    status: Literal["pending", "delivering", "delivered", "failed"] | None


class Task(Shape):
    """A prompt to run."""

    id: str
    object: Literal["task"]
    status: TaskStatus
    model: str
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    attempts: Annotated[int, Field(description="Number of upstream calls.")]
    batch_id: str | None
    custom_id: str | None
    priority: Literal["high", "normal", "low"]
    result: Annotated[dict[str, Any] | None, Field(description="The upstream's response, a chat completion.")]
    error: TaskProblem | None
    usage: Usage | None
    cost: Annotated[Cost | None, Field(description="null if the price is unknown.")]
    cached: Annotated[bool, Field(description="Answered from the cache, without an upstream call.")]
    coalesced: Annotated[bool, Field(description="Answered by the upstream call of an identical task.")]
    simulated: bool
    finish: Finish
    degraded: Annotated[
        bool, Field(description="Answered with the configured fallback text, as the request allowed.")
    ]
    changes: Annotated[
        list[RequestChange], Field(description="What was changed in the request for the upstream to take it.")
    ]
    queue: Annotated[Queue | None, Field(description="Only while the task is waiting.")]
    callback: Callback | None
    metadata: dict[str, str] | None


class Counts(Shape):
    """A batch's progress."""

    total: int
    completed: int
    failed: Annotated[int, Field(description="Failed or expired; the rest of an ended batch was cancelled.")]


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
    finish_counts: Annotated[
        dict[str, int], Field(description="Answers that are not `complete`, counted by their `finish`.")
    ]
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


def raw(text: str | None) -> Any:
    """Stored JSON text on one line, for insertion into a response without parsing it."""
    return None if text is None else orjson.Fragment(one_line(text))


PRIORITIES: dict[int, Any] = {step.value: step.name.lower() for step in PriorityStep}


def task_view(
    row: Any, *, result: str | None, queue: Queue | None = None, callback_status: Any = None
) -> Task:
    """Render a row of `task`, given by attributes; `result` is the upstream's answer as JSON text."""
    return Task(
        id=row.id,
        object="task",
        status=row.status,
        model=row.model,
        created_at=to_rfc3339(row.created_at),
        started_at=to_rfc3339(row.started_at),
        finished_at=to_rfc3339(row.finished_at),
        attempts=row.attempts,
        batch_id=row.batch_id,
        custom_id=row.custom_id,
        priority=PRIORITIES[row.step],
        result=raw(result),
        error=problem(row),
        usage=usage_of(row),
        cost=cost_of(row),
        cached=bool(row.cached),
        coalesced=bool(row.coalesced),
        simulated=bool(row.simulated),
        finish=row.finish,
        degraded=bool(row.degraded),
        changes=_changes(row),
        queue=queue,
        callback=Callback(url=row.callback_url, status=callback_status) if row.callback_url else None,
        metadata=raw(row.metadata),
    )


def problem(row: Any) -> TaskProblem | None:
    """Why a task failed, else None. A code without type is why a queued task waits."""
    if row.error_type is None and row.error_message is None:
        return None
    param, own = told_in(_notes(row))
    message, kind = row.error_message, row.error_type
    return TaskProblem(message=message, type=kind, param=param, code=row.error_code, upstream_code=own)


def openai_error(row: Any) -> Problem | None:
    """The error as OpenAI's clients know it: the upstream's own code where ours says nothing more."""
    found = problem(row)
    if found is None:
        return None
    code = found.upstream_code if found.upstream_code and found.code == "invalid_request" else found.code
    return Problem(message=found.message, type=found.type, param=found.param, code=code)


def _changes(row: Any) -> list[RequestChange]:
    notes: Iterator[Any] = (note.split(":", 3)[1:] for note in _notes(row) if note.startswith("repair:"))
    return [RequestChange(how=how, parameter=name, value=value or None) for how, name, value in notes]


def _notes(row: Any) -> list[str]:
    avoid = getattr(row, "avoid", None)  # a task that was just made has none
    notes: list[str] = orjson.loads(avoid) if avoid else []
    return notes


def usage_of(row: Any) -> Usage | None:
    """Token counts, as in chat completions."""
    prompt, completion = row.prompt_tokens, row.completion_tokens
    if prompt is None and completion is None:
        return None
    return Usage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion or 0,
        total_tokens=(prompt or 0) + (completion or 0),
        prompt_tokens_details=CachedTokens(cached_tokens=row.cached_tokens or 0),
        completion_tokens_details=ReasoningTokens(reasoning_tokens=row.reasoning_tokens or 0),
    )


def cost_of(row: Any) -> Cost | None:
    """The cost, exact and in millionths of the currency; None when a price is unknown."""
    picos = row.cost_picos
    return None if picos is None else Cost(micros=micros(picos), amount=amount(picos), currency=row.currency)


def batch_view(row: Any, *, callback_status: Any = None) -> Batch:
    """Render a row of `batch`, given by attributes."""
    errors = orjson.loads(row.errors) if row.errors else None
    return Batch(
        id=row.id,
        object="batch",
        status=row.status,
        request_counts=Counts(total=row.total, completed=row.completed, failed=row.failed),
        finish_counts=orjson.loads(row.finishes) if row.finishes else {},
        batch_size=row.batch_size,
        created_at=to_rfc3339(row.created_at),
        in_progress_at=to_rfc3339(row.in_progress_at),
        expires_at=to_rfc3339(row.expires_at),
        finalizing_at=to_rfc3339(row.finalizing_at),
        completed_at=to_rfc3339(row.completed_at),
        failed_at=to_rfc3339(row.failed_at),
        expired_at=to_rfc3339(row.expired_at),
        cancelling_at=to_rfc3339(row.cancelling_at),
        cancelled_at=to_rfc3339(row.cancelled_at),
        paused_at=to_rfc3339(row.paused_at),
        errors=BatchProblems(object="list", data=errors) if errors else None,
        callback=Callback(url=row.callback_url, status=callback_status) if row.callback_url else None,
        metadata=raw(row.metadata),
    )
