"""Parse input into a checked model, or raise the one error that helps most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.platform.domain.errors import Invalid
from app.platform.domain.json_text import BOM, MOST_VALUES, check_values, whole_characters

M = TypeVar("M", bound=BaseModel)

# Parameters of upstreams that a task may have next to its prompt: OpenAI's, and those that many upstreams share.
UPSTREAM_NAMES = frozenset(
    {
        "audio",
        "best_of",
        "chat_template_kwargs",
        "enable_thinking",
        "frequency_penalty",
        "function_call",
        "functions",
        "guided_choice",
        "guided_json",
        "guided_regex",
        "ignore_eos",
        "length_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "min_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning",
        "reasoning_effort",
        "reasoning_split",
        "repetition_penalty",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_options",
        "temperature",
        "thinking",
        "thinking_budget",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "user_id",
        "verbosity",
        "web_search_options",
    }
)
# Options of ours that upstreams have under the same name: refusals of their values say how to reach which.
SHARED_NAMES = frozenset({"priority", "cache", "order", "window", "retry", "metadata", "store"})
_LONGEST_NAME = 200  # characters of a name that are echoed and compared with known names
_TYPES = {
    "string_type": "must be text",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}

_BOUNDS = {
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "int_parsing": "must be an integer",
}


def parse_json(raw: bytes, where: str = "", most_values: int = MOST_VALUES) -> Any:
    """Parse JSON, strictly: UTF-8, no NaN. Half surrogate pairs become U+FFFD. `where` begins the error message.

    Raises Invalid; status 413 above `most_values` values, before any of them is built.
    """
    raw = raw.removeprefix(BOM)
    check_values(raw, most_values)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        return orjson.loads(whole_characters(raw))
    except orjson.JSONDecodeError as error:
        raise Invalid(f"{where}not valid JSON: {_fault(raw, error)}", code="invalid_json") from None


def _fault(raw: bytes, error: orjson.JSONDecodeError) -> str:
    """What is wrong and where; for another encoding, the fix."""
    place = f"at line {error.lineno} column {error.colno}"
    try:
        if b"\0" not in raw[:4]:  # UTF-16 and UTF-32 have one there
            whole_characters(raw).decode()
            return f"{error.msg} {place}"
    except UnicodeDecodeError:
        pass
    return f"it is not in UTF-8 {place}; JSON is sent as UTF-8, whatever the charset in Content-Type"


def parse(model: type[M], value: Any, *, within: str = "", where: str = "") -> M:
    """Check a parsed value; `within` is the path that names it, such as `requests[3]`.

    Raises Invalid that names the first wrong field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False), model, within, where) from None


def _refusal(details: list[ErrorDetails], model: type[BaseModel], within: str, where: str) -> Invalid:
    detail = min(details, key=_helpfulness)
    context = detail.get("ctx", {})
    param = _path(within, detail["loc"], str(context.get("field", "")))
    message, code = _explain(detail, model)
    message += _whose(detail["loc"], model)
    return Invalid(f"{where}{param or 'the body'}: {message}", param=param or None, code=code)


def _whose(loc: Sequence[int | str], model: type[BaseModel]) -> str:
    """How to reach the upstream's field, where an option of ours with the same name has a wrong value."""
    place = next((number for number, part in enumerate(loc) if part in SHARED_NAMES), None)
    if place is None or "parameters" not in _model_at(model, loc[:place]).model_fields:
        return ""
    name = loc[place]
    return (
        f'; this is Penstock\'s own field (also "penstock": {{"{name}": ...}}); one of the upstream\'s goes into '
        f'"parameters": {{"{name}": ...}}'
    )


def _helpfulness(detail: ErrorDetails) -> int:
    """Lower is more helpful: an unknown name explains more than a missing field."""
    return 0 if detail["type"] == "extra_forbidden" else 1


def _path(within: str, loc: Iterable[int | str], field: str) -> str:
    path = within
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part[:_LONGEST_NAME]
            path += f".{name}" if path else name
    separator = "." if path and field and field[0] not in ".[" else ""
    return f"{path}{separator}{field}" if path else field.lstrip(".")


def _explain(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown(
            str(detail["loc"][-1])[:_LONGEST_NAME], _model_at(model, detail["loc"][:-1])
        ), "unknown_field"
    if kind == "missing":
        return "is required", "missing_field"
    if kind in _TYPES:
        return _TYPES[kind], "invalid_type"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**detail.get("ctx", {})), "invalid_value"
    if kind == "value_error":
        return str(detail.get("ctx", {}).get("error", detail["msg"])), "invalid_value"
    if kind in ("invalid_type", "invalid_value", "missing_field"):
        return detail["msg"], kind
    return detail["msg"][:1].lower() + detail["msg"][1:], "invalid_value"


def _unknown(name: str, model: type[BaseModel]) -> str:
    fields = list(model.model_fields)
    close = get_close_matches(name, fields, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"fields are {', '.join(sorted(fields))}"
    if "parameters" in fields and not close:
        hint = f'if it is the upstream\'s, put it into "parameters": {{"{name}": ...}}; {hint}'
    if "requests" in fields and not close:
        hint = f"if it is the requests', put it into each of them; {hint}"
    return f"unknown field; {hint}"


def _model_at(model: type[BaseModel], loc: Iterable[int | str]) -> type[BaseModel]:
    """The model at the end of a path, which passes only through lists of models."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _inner(model.model_fields[part].annotation) or model
    return model


def _inner(annotation: Any) -> type[BaseModel] | None:
    for argument in getattr(annotation, "__args__", ()):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument
    return None
