"""Lines of a batch file: what OpenAI's Batch API takes, with our wishes in the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.platform.domain.errors import Invalid
from app.submission.bodies import CustomId
from app.submission.chat_bodies import ChatBody
from app.submission.domain.request import TaskRequest
from app.submission.validation import parse, parse_json


@dataclass(frozen=True, slots=True)
class BatchFileLine:
    """A line of a batch file, well-formed."""

    custom_id: str
    request: TaskRequest


class FileLine(BaseModel):
    """One request."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)

    custom_id: CustomId = Field(description="Your name for it, unique in the file.")
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
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
            "body.stream: a batch's answers are not streamed", param="body.stream", code="invalid_value"
        )
    return BatchFileLine(line.custom_id, line.body.request(line.custom_id))
