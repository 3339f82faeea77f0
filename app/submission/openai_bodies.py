"""OpenAI's bodies: a chat completion and a line of a batch file, with Penstock's options among the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.platform.domain.errors import Invalid
from app.submission.bodies import CustomId, Messages, TaskBody, refuse, with_whole_limits
from app.submission.domain.request import TaskRequest
from app.submission.validation import parse, parse_json


class StreamOptions(BaseModel):
    """How to stream; unknown options are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)

    include_usage: bool | None = Field(None, description="Tell the usage in a last chunk of its own.")


class ChatBody(TaskBody):
    """A conversation. Fields that are not listed here go to the upstream as they are; these never do."""

    model_config = ConfigDict(extra="allow")

    messages: Messages = Field(description="The conversation, as the upstream takes it.")
    stream: bool | None = Field(None, description="Answer by server-sent events, chunk by chunk.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")

    @model_validator(mode="after")
    def _limits(self) -> Self:
        with_whole_limits(self.model_extra or {})
        return self

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _passed_on(self) -> dict[str, Any]:
        return {**super()._passed_on(), **with_whole_limits(self.model_extra or {})}

    def _streams(self) -> bool:
        return bool(self.stream)


@dataclass(frozen=True, slots=True)
class BatchFileLine:
    """A line of a batch file, well-formed."""

    custom_id: str
    request: TaskRequest


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _path(value: Any) -> Any:
    """Other spellings of the one path that is served: without /v1, with another version, as a whole address."""
    if not isinstance(value, str):
        return value
    if not value.rstrip("/").endswith("/chat/completions"):
        refuse(f"is {value[:80]!r}; only /v1/chat/completions is served")
    return "/v1/chat/completions"


class FileLine(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)

    custom_id: CustomId = Field(description="Your name for it, unique in the file.")
    method: Annotated[Literal["POST"], BeforeValidator(_upper)] = "POST"
    url: Annotated[Literal["/v1/chat/completions"], BeforeValidator(_path)] = "/v1/chat/completions"
    body: ChatBody


def parse_line(raw: bytes) -> BatchFileLine:
    """Read one line. Raises Invalid that names the field."""
    try:
        value = parse_json(raw)
    except Invalid as error:
        raise Invalid(error.message, code="invalid_json_line") from None
    line = parse(FileLine, value)
    if line.body.stream:
        raise Invalid(
            "body.stream: a batch's answers cannot be streamed; remove stream",
            param="body.stream",
            code="invalid_value",
        )
    return BatchFileLine(line.custom_id, line.body.request(line.custom_id))
