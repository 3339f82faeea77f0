"""The body of a chat completion: the upstream's own, with our wishes beside it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.submission.bodies import Messages, TaskBody, with_whole_limits


class StreamOptions(BaseModel):
    """How to stream; what is unknown here is passed over."""

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
        """Whether a stream is to end with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _passed_on(self) -> dict[str, Any]:
        return {**super()._passed_on(), **with_whole_limits(self.model_extra or {})}

    def _streams(self) -> bool:
        return bool(self.stream)
