"""Response models of the OpenAI-compatible endpoints; also tested with the official client's strict validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from app.tasks.domain.rows import BatchRow
from app.tasks.views import BatchStatus, Shape, raw


class Choice(BaseModel):
    """A choice; further fields as sent by the upstream."""

    model_config = ConfigDict(extra="allow")

    index: int
    message: dict[str, Any]
    finish_reason: str | None


class ChatCompletion(BaseModel):
    """The upstream's response, unchanged."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, Any] | None = None


class ChatCompletionList(Shape):
    """A page of stored chat completions."""

    object: Literal["list"]
    data: list[ChatCompletion]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedChatCompletion(Shape):
    """A deleted chat completion."""

    id: str
    object: Literal["chat.completion.deleted"]
    deleted: bool


class Model(Shape):
    """A configured model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Annotated[str, Field(description="The upstream that is tried first.")]


class ModelList(Shape):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class File(Shape):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None


class FileList(Shape):
    """A page of files."""

    object: Literal["list"]
    data: list[File]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFile(Shape):
    """It is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class LineProblem(Shape):
    """What was wrong with a line of the input file."""

    code: str
    message: str
    param: str | None
    line: Annotated[int | None, Field(description="From 1.")]


class LineProblems(Shape):
    """Why the input was rejected."""

    object: Literal["list"]
    data: list[LineProblem]


class RequestCounts(Shape):
    """Progress."""

    total: int
    completed: int
    failed: int


class InputDetails(Shape):
    """Details of the input tokens."""

    cached_tokens: int


class OutputDetails(Shape):
    """Details of the output tokens."""

    reasoning_tokens: int


class BatchUsage(Shape):
    """Tokens of all its tasks."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class OpenAiBatch(Shape):
    """A batch in the format of OpenAI's Batch API; times are Unix seconds."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: LineProblems | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


class OpenAiBatchList(Shape):
    """A page of batches, newest first."""

    object: Literal["list"]
    data: list[OpenAiBatch]
    has_more: bool
    first_id: str | None
    last_id: str | None


def openai_batch_view(row: BatchRow, usage: Mapping[str, int] | None) -> OpenAiBatch:
    """Render a batch; `usage`, once it has ended, by the names of its columns."""
    errors = orjson.loads(row.errors) if row.errors else None
    return OpenAiBatch(
        id=row.id,
        object="batch",
        endpoint=row.endpoint or "/v1/chat/completions",
        model=row.model,
        errors=LineProblems(object="list", data=errors) if errors else None,
        input_file_id=row.input_file_id or row.id.replace("batch_", "file_", 1),
        completion_window=row.completion_window or _window(row),
        status=row.status.value,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        created_at=int(row.created_at),
        in_progress_at=_second(row.in_progress_at),
        expires_at=_second(row.expires_at),
        finalizing_at=_second(row.finalizing_at),
        completed_at=_second(row.completed_at),
        failed_at=_second(row.failed_at),
        expired_at=_second(row.expired_at),
        cancelling_at=_second(row.cancelling_at),
        cancelled_at=_second(row.cancelled_at),
        request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
        usage=None if usage is None else _usage(usage),
        metadata=raw(row.metadata),
    )


def _second(at: float | None) -> int | None:
    return None if at is None else int(at)


def _usage(usage: Mapping[str, int]) -> BatchUsage:
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    return BatchUsage(
        input_tokens=prompt,
        input_tokens_details=InputDetails(cached_tokens=usage["cached_tokens"]),
        output_tokens=completion,
        output_tokens_details=OutputDetails(reasoning_tokens=usage["reasoning_tokens"]),
        total_tokens=prompt + completion,
    )


def _window(row: BatchRow) -> str:
    """The time a batch submitted as JSON may take, in the format of `completion_window`."""
    return f"{round((row.expires_at or row.created_at) - row.created_at)}s"
