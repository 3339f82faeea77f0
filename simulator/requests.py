"""Reading a chat request: from bytes to a value that has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from simulator.errors import BadRequestError, UnknownModelError
from simulator.tokens import count_tokens

_DESERIALIZE = "Failed to deserialize the JSON body into the target type: "
# Parameter: (lowest, highest) as DeepSeek names them.
_RANGES = {
    "temperature": (0, 2.0),
    "top_p": (0, 1.0),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model's limits in tokens: prompt and answer together, and the answer alone."""

    context_tokens: int = 131_072
    max_output_tokens: int = 65_536


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat call that can be answered. `prompt` is the text of all messages, one after the other."""

    model: str
    prompt: str
    question: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    thinking: bool
    json_answer: bool


def read_chat_request(
    body: bytes,
    models: Mapping[str, ServedModel],
    unknown_model_status: int,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> ChatRequest:
    """Parse and check a body. Raises BadRequestError or UnknownModelError, in DeepSeek's words."""
    data = _read_object(body)
    model = _require(data, "model", str, "a string")
    messages = _require(data, "messages", list, "a sequence")
    if not messages:
        raise BadRequestError("Empty input messages")
    texts = [_text_of(place, message) for place, message in enumerate(messages)]
    _check_numbers(data)
    served = models.get(model)
    if served is None and (other := aliases.get(model)) in models:
        model, served = str(other), models[str(other)]
    if served is None:
        raise UnknownModelError(model, unknown_model_status)
    prompt = "".join(texts)
    request = ChatRequest(
        model=model,
        prompt=prompt,
        question=texts[-1],
        prompt_tokens=max(1, count_tokens(prompt)),
        max_tokens=_max_tokens(data, served),
        stream=_flag(data, "stream"),
        include_usage=_flag(data.get("stream_options") or {}, "include_usage"),
        thinking=_option(data, "thinking") == "enabled",
        json_answer=_option(data, "response_format") == "json_object",
    )
    _check_context(request, served)
    return request


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"Failed to parse the request body as JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadRequestError(f"{_DESERIALIZE}expected a map", 422)
    return data


def _require(data: dict[str, Any], field: str, kind: type, expected: str) -> Any:
    value = data.get(field)
    if value is None:
        raise BadRequestError(f"{_DESERIALIZE}missing field `{field}`", 422)
    if not isinstance(value, kind):
        raise BadRequestError(f"{_DESERIALIZE}{field}: invalid type, expected {expected}", 422)
    return value


def _text_of(place: int, message: object) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRequestError(f"{_DESERIALIZE}messages[{place}]: missing field `role`", 422)
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""  # an assistant message may contain only tool calls
    if isinstance(content, list):
        return "".join(_part_text(place, part) for part in content)
    if not isinstance(content, str):
        raise BadRequestError(f"{_DESERIALIZE}messages[{place}]: missing field `content`", 422)
    return content


def _part_text(place: int, part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise BadRequestError(f"{_DESERIALIZE}messages[{place}]: content parts must be of type `text`", 422)
    return text


def _check_numbers(data: dict[str, Any]) -> None:
    for field, (low, high) in _RANGES.items():
        value = data.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRequestError(f"{_DESERIALIZE}{field}: invalid type, expected a number", 422)
        if not low <= value <= high:
            raise BadRequestError(f"Invalid {field} value, the valid range of {field} is [{low}, {high}]")


def _max_tokens(data: dict[str, Any], served: ServedModel) -> int | None:
    value = data.get("max_tokens", data.get("max_completion_tokens"))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequestError(f"{_DESERIALIZE}max_tokens: invalid type, expected an integer", 422)
    if not 1 <= value <= served.max_output_tokens:
        allowed = f"the valid range of max_tokens is [1, {served.max_output_tokens}]"
        raise BadRequestError(f"Invalid max_tokens value, {allowed}")
    return value


def _flag(data: object, field: str) -> bool:
    value = data.get(field) if isinstance(data, dict) else None
    if value is not None and not isinstance(value, bool):
        raise BadRequestError(f"{_DESERIALIZE}{field}: invalid type, expected a boolean", 422)
    return bool(value)


def _option(data: dict[str, Any], field: str) -> object:
    """The `type` of an option such as `{"thinking": {"type": "enabled"}}`."""
    value = data.get(field)
    return value.get("type") if isinstance(value, dict) else None


def _check_context(request: ChatRequest, served: ServedModel) -> None:
    completion = request.max_tokens or 0
    asked = request.prompt_tokens + completion
    if asked > served.context_tokens:
        raise BadRequestError(
            f"This model's maximum context length is {served.context_tokens} tokens. However, you requested "
            f"{asked} tokens ({request.prompt_tokens} in the messages, {completion} in the completion). "
            "Please reduce the length of the messages or completion."
        )
