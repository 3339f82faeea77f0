"""Response models of the OpenAI-compatible endpoints; also tested with the official client's strict validation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.shapes import BatchStatus, Shape


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


class Model(Shape):
    """A configured model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str = Field(description="The upstream that is tried first.")


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
    line: int | None = Field(description="From 1.")


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
