"""Request bodies as pydantic models: checked strictly, described in /openapi.json.

Every field is described here once; the documentation shows that description.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.caching.domain.caching import CacheParams, CacheScope, Mode
from app.pacing.domain.tokens import CHOICES, LARGEST, LENGTHS
from app.platform.domain.times import parse_duration, parse_instant
from app.submission.domain.request import DEFAULT_EXPIRY, LONGEST_EXPIRY, BatchRequest, TaskRequest
from app.submission.validation import UPSTREAM_NAMES
from app.tasks.domain.task import Priority

MOST_NAMES = 200  # of one object: OpenAI's chat completion has about 40
MOST_MESSAGES = 10_000  # of one conversation
_UNFIT = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control, surrogate, line and paragraph separator
MOST_METADATA = 16  # names

# Fields of a request that never go to the upstream. In "parameters" they are a mistake, unless upstreams have
# fields of these names, too.
_OURS = (
    "prompt",
    "messages",
    "model",
    "callback_url",
    "expires_in",
    "run_at",
    "allow_degraded",
    "custom_id",
    "penstock",
)
# Ours by name, but other values are an upstream's: "parameters" hands those on.
_OUR_VALUES: Mapping[str, tuple[Any, ...]] = {"window": ("off_peak",), "order": ("arrival", "deadline")}


def refuse(message: str, *, field: str = "", code: str = "invalid_value") -> NoReturn:
    """Refuse a value from within a validator; `field` is appended to the path of the value."""
    raise PydanticCustomError(code, "{message}", {"message": message, "field": field})


def _at_most(most: int) -> BeforeValidator:
    """Refuse a list or object of more than `most` items before validating any of them."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > most:
            refuse(f"must hold at most {most}")
        return value

    return BeforeValidator(check)


def _duration(value: Any) -> Any:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        refuse('must be a number of seconds, or text such as "10m" or "24h"', code="invalid_type")
    return parse_duration(value)


def _expiry(seconds: float) -> float:
    if not 1 <= seconds <= LONGEST_EXPIRY:
        refuse("must be between 1 second and 30 days")
    return seconds


def _instant(value: Any) -> Any:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        refuse("must be Unix seconds, or text such as 2026-11-21T06:00:00Z", code="invalid_type")
    return parse_instant(value)


def _id_text(value: Any) -> Any:
    """Row numbers are common ids: 17 and 17.0 are the id "17"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_line(value: str) -> str:
    """Any script and any kind of space, such as U+3000, but nothing that breaks a line or a log."""
    if any(unicodedata.category(character) in _UNFIT for character in value):
        refuse("must not hold control characters or line breaks")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        refuse("must not hold control characters")
    return value


def _metadata(value: Any) -> Any:
    """Text of what was given: numbers are taken, too. OpenAI's metadata is text throughout."""
    if not isinstance(value, dict):
        return value
    names = list(value)
    if len(names) > MOST_METADATA:
        extra = f"{len(names)} are given, the first too many is {str(names[MOST_METADATA])[:80]!r}"
        refuse(f"must hold at most {MOST_METADATA} names; {extra}")
    return {name: _metadata_text(name, each) for name, each in value.items()}


def _metadata_text(name: Any, value: Any) -> str:
    if not 1 <= len(name) <= 64:
        refuse(f"names must have 1 to 64 characters; {name[:80]!r} has {len(name)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if not isinstance(value, str):
        hint = (
            "send a list or an object as text, encoded as JSON"
            if isinstance(value, list | dict)
            else "quote it"
        )
        refuse(f"must be text or a number; {hint}", field=f".{name}", code="invalid_type")
    if len(value) > 512:
        refuse("values may have at most 512 characters", field=f".{name}")
    return value


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    for name in _OURS:
        if name in value:
            refuse(f'belongs next to "parameters", not in it: move {name} out', field=f".{name}")
    for name, ours in _OUR_VALUES.items():
        if value.get(name) in ours:
            refuse(
                f'this value is Penstock\'s and belongs next to "parameters": move {name} out',
                field=f".{name}",
            )
    return checked_task_parameters(value, within=".")


def checked_task_parameters(value: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """As `checked_parameters`, of a task, whose answer cannot be streamed."""
    if value.get("stream", False) is not False:
        refuse("a task's answer is stored and cannot be streamed: remove stream", field=f"{within}stream")
    return checked_parameters(value, within)


_NUMBER = ((int, float), "must be a number")
_TEXT = ((str,), "must be text")
_FLAG = ((bool,), "must be true or false")
_LIST = ((list,), "must be a list")
_OBJECT = ((dict,), "must be an object")
# The types of parameters that OpenAI documents or that many upstreams share; null is always accepted.
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("temperature", "top_p", "top_k", "min_p", "seed", "top_logprobs"), _NUMBER),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "repetition_penalty"), _NUMBER),
    **dict.fromkeys(("user", "reasoning_effort", "verbosity", "service_tier"), _TEXT),
    **dict.fromkeys(("stream", "parallel_tool_calls", "enable_thinking"), _FLAG),
    **dict.fromkeys(("tools", "functions", "modalities"), _LIST),
    **dict.fromkeys(("response_format", "logit_bias", "stream_options", "chat_template_kwargs"), _OBJECT),
    "stop": ((str, list), "must be text or a list of texts"),
    "tool_choice": ((str, dict), "must be text or an object"),
    "function_call": ((str, dict), "must be text or an object"),
    "logprobs": ((bool, int), "must be true or false"),
}


def _check_type(name: str, value: Any, within: str) -> None:
    types, message = _TYPES.get(name, ((), ""))
    if not types or value is None:
        return
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        refuse(message, field=f"{within}{name}", code="invalid_type")


def checked_parameters(parameters: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Return the parameters with integers for the length and the number of answers, which estimates rely on.

    4096.0 becomes 4096. Values that set no limit (null; a length of 0 or -1) are removed: upstreams differ in them.
    Known parameters of a wrong type are refused: upstreams answer them with errors of all kinds.
    """
    found = dict(parameters)
    for name, value in parameters.items():
        _check_type(name, value, within)
    for name in (*LENGTHS, *CHOICES):
        value = found.get(name)
        if value is None or (name in LENGTHS and type(value) in (int, float) and value in (0, -1)):
            found.pop(name, None)
            continue
        if type(value) not in (int, float) or not 1 <= value <= LARGEST or value != int(value):
            unlimited = "; leave it out for no limit" if name in LENGTHS else ""
            refuse(f"must be a positive integer, at most {LARGEST:,}{unlimited}", field=f"{within}{name}")
        found[name] = int(value)
    return found


def check_time(body: Any) -> None:
    """Refuse `run_at` together with `window`."""
    if body.run_at is not None and body.window is not None:
        refuse("run_at and window exclude each other", field="window")


def _messages(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, message in enumerate(value):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            refuse("must be text, such as user", field=f"[{number}].role", code="invalid_type")
        if content is not None and not isinstance(content, str | list):
            refuse("must be text, a list of parts, or null", field=f"[{number}].content", code="invalid_type")
    return value


def _prompt(value: str) -> str:
    if not value.strip():
        refuse("must not be empty")
    return value


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    AfterValidator(_expiry),
    WithJsonSchema({"oneOf": [{"type": "number"}, {"type": "string"}], "examples": [600, "10m", "24h"]}),
]
Instant = Annotated[
    float,
    BeforeValidator(_instant),
    WithJsonSchema({"oneOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}),
]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Object = Annotated[dict[str, Any], Field(fail_fast=True)]
Messages = Annotated[
    list[Object],
    Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES),
    AfterValidator(_messages),
    _at_most(MOST_MESSAGES),
]
Parameters = Annotated[Object, AfterValidator(_parameters), _at_most(MOST_NAMES)]
Metadata = Annotated[dict[str, str], BeforeValidator(_metadata), Field(max_length=MOST_METADATA)]
Window = Literal["off_peak"]
OrderName = Literal["arrival", "deadline"]
PriorityName = Literal["high", "normal", "low"]
CallbackUrl = Annotated[str, Field(min_length=1, max_length=2048)]
CustomId = Annotated[
    str,
    Field(min_length=1, max_length=512),
    BeforeValidator(_id_text),
    AfterValidator(_one_line),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 512}),
]


def few_names(value: Any) -> Any:
    """Refuse an object with too many fields, as each unknown one would be reported."""
    if isinstance(value, dict) and len(value) > MOST_NAMES:
        refuse(f"must hold at most {MOST_NAMES} fields")
    return value


class Body(BaseModel):
    """Base of all bodies: no unknown fields, strict types, no input repeated in errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True, frozen=True
    )

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, value: Any) -> Any:
        return few_names(value)


_WINDOW = (
    "off_peak: run only in the upstream's cheap, quiet hours, or earlier if the deadline requires it; `expires_in` "
    "counts from now. Default: at any hour."
)

_ORDER = (
    "deadline: nearest deadline first, before those in order of arrival, among your own tasks of this model and "
    "priority. Default: your client's setting, arrival unless changed."
)

_DEGRADED = (
    "true: after the waiting time configured for its model, the configured text may answer it, marked `degraded`. "
    "Such a task shares no upstream call with identical ones."
)


class CacheBody(Body):
    """How a request uses the cache. A word alone is its mode."""

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value

    mode: Literal["read", "write", "off", "refresh"] | None = Field(
        None,
        description="read: use a cached answer. write (the default): also cache a new one. refresh: ignore the cached "
        "answer and cache the new one. off: neither.",
    )
    ttl: Duration | None = Field(None, description="How long its answer is cached. Default: as configured.")
    scope: Literal["client", "shared"] | None = Field(
        None,
        description="client (the default): your own cache. shared: shared with all clients who ask for it, if enabled.",
    )

    def wish(self) -> CacheParams:
        """The plain value that the use cases take."""
        return CacheParams(
            self.ttl, Mode(self.mode) if self.mode else None, CacheScope(self.scope) if self.scope else None
        )


class TaskOptions(Body):
    """What Penstock does with a request; upstreams never see it."""

    priority: PriorityName | None = Field(None, description="Default: normal.")
    callback_url: CallbackUrl | None = Field(None, description="Receives a callback when the task has ended.")
    expires_in: Duration | None = Field(
        None,
        description="How long it may wait, counted from when it may run. Default: 24 h; at most 30 days.",
    )
    run_at: Instant | None = Field(None, description="Not before this instant; at most 30 days ahead.")
    window: Window | None = Field(None, description=_WINDOW)
    order: OrderName | None = Field(None, description=_ORDER)
    metadata: Metadata | None = Field(
        None,
        description="Your own data: up to 16 names of 64 characters, values of 512 characters. Numbers become text.",
    )
    retry: Name | None = Field(None, description="A configured retry policy. Default: the model's.")
    allow_degraded: bool | None = Field(None, description=_DEGRADED)
    cache: CacheBody | None = Field(
        None, description="How it uses the cache. Default: write at temperature 0, otherwise off."
    )
    store: bool | None = Field(
        None,
        description="false: erase prompt and result once the callback is delivered, or an hour after the end.",
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        check_time(self)
        return self


OPTIONS = frozenset(TaskOptions.model_fields)
OPTION_HEADER = "x-penstock-"  # and an option's name, with hyphens


def with_options(value: Any, options: Mapping[str, Any]) -> Any:
    """A request's body with options that came otherwise, in headers; those in its own `penstock` take precedence."""
    if not options or not isinstance(value, dict):
        return value
    own = value.get("penstock")
    return {**value, "penstock": {**options, **own} if isinstance(own, dict) else own or dict(options)}


def option_headers(headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The options among a request's headers, such as `x-penstock-expires-in: 10m`. Values are JSON or text."""
    found = {}
    for name, value in headers:
        if name.lower().startswith(OPTION_HEADER):
            option = name[len(OPTION_HEADER) :].lower().replace("-", "_")
            found[option] = _header_value(value)
    return found


def _header_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class TaskBody(TaskOptions):
    """One prompt to run: exactly one of `prompt` and `messages`."""

    model: Name | None = Field(None, description="A configured model. Default: the default model.")
    prompt: Annotated[str, AfterValidator(_prompt)] | None = Field(
        None, description="The text of a single user message."
    )
    messages: Messages | None = Field(None, description="The conversation, as the upstream takes it.")
    parameters: Parameters = Field(
        default_factory=dict,
        description="Everything else for the upstream's body: temperature, max_tokens, tools ... `stream` is refused. "
        "Known parameters may also stand at the top level.",
    )
    penstock: TaskOptions | None = Field(
        None,
        description="Penstock's options, for names that upstreams have, too: a field of the same name next to it goes "
        "to the upstream.",
    )

    @model_validator(mode="before")
    @classmethod
    def _upstream_fields(cls, value: Any) -> Any:
        """Move to `parameters` what is the upstream's: known parameters, and options that stand in `penstock`."""
        if not isinstance(value, dict) or not isinstance(value.get("parameters", {}), dict):
            return value
        ours = value.get("penstock")
        shadowed = OPTIONS & value.keys() & (ours.keys() if isinstance(ours, dict) else set())
        moved = [name for name in value if name in shadowed or cls._is_upstreams(name)]
        return _with_parameters(value, moved) if moved else value

    @classmethod
    def _is_upstreams(cls, name: str) -> bool:
        """Whether a top-level field is the upstream's."""
        return name in UPSTREAM_NAMES

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.prompt is None and self.messages is None:
            refuse("one of prompt and messages is required", field="prompt", code="missing_field")
        if self.prompt is not None and self.messages is not None:
            refuse("prompt and messages exclude each other", field="prompt")
        return self

    def options(self) -> TaskOptions:
        """Its options: those in `penstock`, else those at the top level."""
        ours = self.penstock.model_fields_set & OPTIONS if self.penstock else frozenset()
        return (
            self
            if self.penstock is None
            else self.model_copy(update={n: getattr(self.penstock, n) for n in ours})
        )

    def request(self, custom_id: str | None = None) -> TaskRequest:
        """The plain value that the use cases take."""
        messages = self.messages or [{"role": "user", "content": self.prompt}]
        options = self.options()
        return TaskRequest(
            messages=messages,
            model=self.model,
            parameters=self._passed_on(),
            priority=Priority(options.priority) if options.priority else None,
            callback_url=options.callback_url,
            expires_in=options.expires_in,
            run_at=options.run_at,
            off_peak=options.window is not None,
            order=options.order,
            allow_degraded=options.allow_degraded,
            metadata=options.metadata,
            custom_id=custom_id,
            retry=options.retry,
            cache=options.cache.wish() if options.cache else None,
            stream=self._streams(),
            store=options.store,
        )

    def _passed_on(self) -> dict[str, Any]:
        """The rest of the upstream's body."""
        return {name: value for name, value in self.parameters.items() if name != "stream"}

    def _streams(self) -> bool:
        """Whether the answer is streamed."""
        return False


def _with_parameters(value: Mapping[str, Any], moved: Iterable[str]) -> dict[str, Any]:
    given = {name: value[name] for name in moved}
    inside = value.get("parameters", {})
    for name in given.keys() & inside.keys():
        if given[name] != inside[name]:
            refuse('stands in "parameters", too, with another value: remove one', field=name)
    rest = {name: each for name, each in value.items() if name not in given}
    return {**rest, "parameters": {**inside, **checked_task_parameters(given)}}


class BatchLine(TaskBody):
    """One request of a batch, or one line of an NDJSON body."""

    custom_id: CustomId | None = Field(None, description="Your name for it, unique in the batch.")

    def line_request(self) -> TaskRequest:
        """The plain value that the use cases take."""
        return self.request(self.custom_id)


class BatchOptions(Body):
    """Options of a whole batch; with an NDJSON body they go in the query string."""

    model: Name | None = Field(None, description="The model of requests without one.")
    priority: PriorityName | None = Field(None, description="The priority of requests without one.")
    batch_size: int | None = Field(
        None, ge=1, le=1_000_000, description="The most of its tasks in flight at once."
    )
    callback_url: CallbackUrl | None = Field(
        None, description="Receives one callback, when the batch has ended."
    )
    expires_in: Duration = Field(
        DEFAULT_EXPIRY,
        description="Tasks that have not started by then expire. Default: 24 h; at most 30 days.",
    )
    run_at: Instant | None = Field(None, description="Not before this instant; for requests without one.")
    window: Window | None = Field(None, description=_WINDOW)
    order: OrderName | None = Field(None, description=_ORDER)
    allow_degraded: bool | None = Field(None, description=_DEGRADED)
    metadata: Metadata | None = Field(None, description="Your own data, kept with the batch.")
    retry: Name | None = Field(None, description="The retry policy of requests without one.")

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        check_time(self)
        return self

    def with_more(self, others: BatchOptions) -> BatchOptions:
        """These options, and where one is not given, the other's."""
        more = others.model_fields_set - self.model_fields_set
        return self.model_copy(update={name: getattr(others, name) for name in more})

    def options(self) -> BatchRequest:
        """The plain value that the use cases take."""
        return BatchRequest(
            model=self.model,
            priority=Priority(self.priority) if self.priority else None,
            batch_size=self.batch_size,
            callback_url=self.callback_url,
            expires_in=self.expires_in,
            run_at=self.run_at,
            off_peak=self.window is not None,
            order=self.order,
            allow_degraded=self.allow_degraded,
            metadata=self.metadata,
            retry=self.retry,
        )


class BatchBody(BatchOptions):
    """Many prompts to run together."""

    requests: Annotated[list[BatchLine], Field(fail_fast=True, min_length=1)] = Field(
        description="In the order of the results."
    )
