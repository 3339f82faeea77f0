"""OpenAI's bodies: a chat completion and a line of a batch file, with Penstock's options among the fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.platform.domain.errors import Invalid
from app.submission.bodies import (
    BatchLine,
    CustomId,
    Messages,
    Object,
    TaskBody,
    TaskOptions,
    checked_parameters,
    refuse,
)
from app.submission.domain.request import TaskRequest
from app.submission.validation import parse, parse_json
from app.upstreams.domain.request_parameters import SHARED


class StreamOptions(BaseModel):
    """How to stream; unknown options are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)

    include_usage: bool | None = Field(None, description="Tell the usage in a last chunk of its own.")


STORED = "store: true"  # the custom id of chats that can be listed and retrieved as stored completions


class ChatOptions(TaskOptions):
    """What Penstock does with a chat call."""

    join: bool | None = Field(
        None,
        description="true: share the task, and the bill, of an equal request of this API key that waits or runs.",
    )


class ChatBody(TaskBody):
    """A conversation. Fields that are not listed here go to the upstream as they are; these never do."""

    model_config = ConfigDict(extra="allow")

    messages: Messages = Field(description="The conversation, as the upstream takes it.")
    penstock: ChatOptions | None = Field(
        None,
        description="Penstock's options, for names that upstreams have, too: a field of the same name next to it goes "
        "to the upstream.",
    )
    stream: bool | None = Field(None, description="Answer by server-sent events, chunk by chunk.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")

    @classmethod
    def _is_upstreams(cls, name: str) -> bool:  # noqa: ARG003 - all fields that are not ours are
        return False

    @model_validator(mode="after")
    def _limits(self) -> Self:
        checked_parameters(self.model_extra or {})
        return self

    def joins(self, *, default: bool) -> bool:
        """Whether it shares the task of an equal request."""
        wished = self.penstock.join if self.penstock else None
        return default if wished is None else wished

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _passed_on(self) -> dict[str, Any]:
        shared = {SHARED: self._shared()} if self.store and self.penstock is None else {}
        return {**super()._passed_on(), **checked_parameters(self.model_extra or {}), **shared}

    def _shared(self) -> dict[str, Any]:
        """Fields for both: of a call that its provider shall store, too."""
        return {"store": True, **({"metadata": self.metadata} if self.metadata else {})}

    def _streams(self) -> bool:
        return bool(self.stream)


ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"  # the only one that batches run


@dataclass(frozen=True, slots=True)
class BatchFileLine:
    """A line of a batch file: its request, or why that is refused. `body` is what was sent."""

    custom_id: str
    request: TaskRequest | None
    refusal: Invalid | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value or "POST"


def endpoint_path(value: Any) -> Any:
    """Other spellings of the one path that is served: without /v1, with another version, as a whole address."""
    if not isinstance(value, str):
        return value
    if not value.rstrip("/").endswith("/chat/completions"):
        refuse(f"is {value[:80]!r}; only /v1/chat/completions is served")
    return ENDPOINT


class FileLine(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)

    custom_id: CustomId = Field(description="Your name for it, unique in the file. A number becomes text.")
    method: Annotated[Literal["POST"], BeforeValidator(_upper)] = "POST"
    url: Annotated[Literal["/v1/chat/completions"], BeforeValidator(endpoint_path)] = ENDPOINT
    body: Object


def parse_line(raw: bytes) -> BatchFileLine:
    """Read one line. Raises Invalid that names the field, where the line is malformed or asks for something else."""
    try:
        value = parse_json(raw)
    except Invalid as error:
        raise Invalid(error.message, code="invalid_json_line") from None
    return check_line(value)


def check_line(value: Any) -> BatchFileLine:
    """Check one line. Raises Invalid that names the field, where the line is malformed or asks for something else.

    A request that is wrong in itself is refused alone: it is the line's failure, not the file's.
    """
    line = parse(FileLine, value)
    if line.body.get("stream"):
        raise Invalid(
            "body.stream: a batch's answers cannot be streamed; remove stream",
            param="body.stream",
            code="invalid_value",
        )
    try:
        request = parse(ChatBody, line.body, within="body").request(line.custom_id)
    except Invalid as error:
        return BatchFileLine(line.custom_id, None, error, line.body)
    return BatchFileLine(line.custom_id, request, body=line.body)


def check_request(value: Any, index: int) -> BatchFileLine:
    """Check one of our own requests, of a file; without a `custom_id` it is named after its place, from 0."""
    line = parse(BatchLine, value)
    name = line.custom_id or f"request-{index}"
    return BatchFileLine(name, line.request(name), body=value)
