"""A streamed chat completion: assembled from chunks, split into chunks, and sent in pieces from worker to API.

Chunks are put together as a careful client would, since providers send tool calls with missing or repeated indexes, ids
and names, usage inside a choice, content as parts, and no finish reason; and they are passed on as clients expect them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Completion = dict[str, Any]

_WHOLE = "chat.completion"
_CHUNK = "chat.completion.chunk"
# Texts that arrive in parts. Any other text that comes again unchanged is a repetition.
_PARTS = frozenset(
    {
        *("content", "reasoning_content", "reasoning", "thinking", "refusal"),
        *("arguments", "text", "summary", "data", "transcript"),
    }
)
_ONCE = frozenset({"role", "id", "type", "index"})  # set once
_NO_REASON = frozenset({"", "null", "none"})
_BESIDE = ("usage", "message", "text")  # of a choice; not of a chunk's


class Assembly:
    """Assembles chunks into the completion, as if it had not been streamed. Owned by one thread."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None
        self._closed = False

    def add(self, chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Add the next chunk. Returns it as a client may see it: itself if nothing is odd, None if it holds nothing."""
        if "error" in chunk:  # one that says nothing, or it would not be added; clients stop at it
            chunk = {name: value for name, value in chunk.items() if name != "error"}
        usage = usage_in(chunk)
        if usage is None and "choices" not in chunk:
            return None  # a heartbeat
        for name, value in chunk.items():
            if name not in ("choices", "usage", "object") and value is not None and not self._head.get(name):
                self._head[name] = value  # the first that says something
        given = chunk.get("choices")
        choices = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
        if usage is not None and (self._usage is None or any(usage.values())):  # zeros last say nothing
            self._usage = usage
        self._closed = self._closed or (usage is not None and not choices)
        if not choices and usage is None:
            return None
        shown = [self._choice(place, one).add(one) for place, one in enumerate(choices)]
        if shown == given and chunk.get("usage") == usage:
            return chunk
        return {**chunk, "choices": shown, **({} if usage is None else {"usage": usage})}

    @property
    def finished(self) -> bool:
        """Whether every choice has a finish reason."""
        return bool(self._choices) and all(one.finish_reason for one in self._choices.values())

    @property
    def succeeded(self) -> bool:
        """Whether it is finished, and no choice by an error."""
        return self.finished and all(one.finish_reason != "error" for one in self._choices.values())

    @property
    def closed(self) -> bool:
        """Whether it is finished and its usage has come in a last chunk of its own."""
        return self._closed and self.finished

    @property
    def has_substance(self) -> bool:
        """Whether there is something to show: text, reasoning, a tool call."""
        return any(one.has_substance for one in self._choices.values())

    def end(self, *, done: bool) -> Mapping[str, Any] | None:
        """The stream has ended: `done` if it said so. Returns a last chunk with the finish reasons that it left out."""
        if not (done or self._closed) or self.finished:
            return None
        left = [one for one in self._choices.values() if not one.finish_reason and one.has_substance]
        shown = [{"index": one.index, "delta": {}, "finish_reason": one.end()} for one in left]
        return {**self._head, "object": _CHUNK, "choices": shown} if shown else None

    def completion(self) -> Completion:
        """The completion so far."""
        choices = [self._choices[index].whole() for index in sorted(self._choices)]
        whole = {**self._head, "object": _WHOLE, "choices": choices}
        return whole if self._usage is None else {**whole, "usage": self._usage}

    def _choice(self, place: int, given: Mapping[str, Any]) -> _Choice:
        index = given.get("index")
        index = index if isinstance(index, int) else place
        return self._choices.setdefault(index, _Choice(index))


def usage_in(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The token counts of a completion or chunk, wherever they stand: some providers put them into a choice."""
    choices = document.get("choices")
    groq = document.get("x_groq")
    places = [document, *(choices if isinstance(choices, list) else ()), groq]
    found = (place.get("usage") for place in reversed(places) if isinstance(place, Mapping))
    return next((usage for usage in found if isinstance(usage, Mapping) and usage), None)


@dataclass(slots=True)
class _Choice:
    """One answer of a stream, as far as it has come."""

    index: int
    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant"})
    calls: list[_ToolCall] = field(default_factory=list)
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    in_messages: bool = False  # they stand for deltas

    @property
    def has_substance(self) -> bool:
        return bool(self.calls) or has_substance(self.message)

    def add(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Add a chunk's choice. Returns it as a client may see it."""
        self.finish_reason = _reason(given.get("finish_reason")) or self.finish_reason
        if isinstance(given.get("logprobs"), Mapping):
            self.logprobs = _grown(self.logprobs or {}, given["logprobs"])
        delta = self._delta(given)
        more = {name: value for name, value in delta.items() if name != "tool_calls"}
        self.message = _grown(self.message, more)
        calls = delta.get("tool_calls")
        calls = [calls] if isinstance(calls, Mapping) else calls
        if isinstance(calls, list):
            more["tool_calls"] = [self._call(one) for one in calls if isinstance(one, Mapping)]
        elif "tool_calls" in delta:
            more["tool_calls"] = None
        kept = {name: value for name, value in given.items() if name not in _BESIDE}
        if "finish_reason" in kept:
            kept["finish_reason"] = _reason(kept["finish_reason"])
        return {**kept, "index": self.index, "delta": more}

    def _delta(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is new. A whole message counts only where nothing came before it, as some send it last again."""
        delta, message = given.get("delta"), given.get("message")
        if not isinstance(delta, Mapping):
            text = given.get("text")
            delta = {"content": text} if isinstance(text, str) else {}
        if not isinstance(message, Mapping) or has_substance(delta):
            return plain_message(delta)
        if not self.has_substance:
            self.in_messages = "delta" not in given
            delta = message
        elif self.in_messages:
            delta = self._new_in(plain_message(message))
        return plain_message(delta)

    def _new_in(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a message adds, where messages stand for deltas: all of it, or what it has more than before."""
        known, text = self.message.get("content"), message.get("content")
        if not isinstance(known, str) or not isinstance(text, str):
            return message
        return {**message, "content": text.removeprefix(known)}

    def _call(self, given: Mapping[str, Any]) -> dict[str, Any]:
        place = _place_of(given, self.calls)
        if place is None:
            place = len(self.calls)
            index = given.get("index")
            self.calls.append(_ToolCall(index if isinstance(index, int) else None))
        return {"index": place, **self.calls[place].add(given, f"call_{self.index}_{place}")}

    def end(self) -> str:
        """Give it the finish reason that its stream left out."""
        self.finish_reason = "tool_calls" if self.calls else "stop"
        return self.finish_reason

    def whole(self) -> dict[str, Any]:
        """As in a completion."""
        message = {"content": None, **self.message}
        if self.calls:
            message["tool_calls"] = [call.facts for call in _in_order(self.calls)]
        return {
            "index": self.index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }


@dataclass(slots=True)
class _ToolCall:
    """One tool call of a stream. `index` is its sender's, `facts` what is known of it."""

    index: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    id_given: bool = False

    @property
    def name(self) -> str:
        return str(self._function.get("name") or "")

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are a whole object, which nothing can continue."""
        try:
            return isinstance(json.loads(str(self._function.get("arguments"))), dict)
        except (ValueError, RecursionError):
            return False

    @property
    def _function(self) -> Mapping[str, Any]:
        function = self.facts.get("function")
        return function if isinstance(function, Mapping) else {}

    def add(self, given: Mapping[str, Any], made_id: str) -> dict[str, Any]:
        """Add a part. Returns what is new in it; the first part has an id, `made_id` if its sender gave none."""
        first = not self.facts
        new = {name: value for name, value in given.items() if name != "index" and value not in (None, "")}
        self.id_given = self.id_given or "id" in new
        if first:
            new = {"id": made_id, **({"type": "function"} if "function" in new else {}), **new}
        else:
            new = {name: value for name, value in new.items() if name not in _ONCE or name not in self.facts}
        if isinstance(given.get("function"), Mapping):
            new["function"] = self._new_in(given["function"])
        self.facts = _grown(self.facts, new)
        return new

    def _new_in(self, function: Mapping[str, Any]) -> dict[str, Any]:
        new = {name: value for name, value in function.items() if value is not None}
        if isinstance(new.get("arguments"), Mapping | list):
            new["arguments"] = _as_text(new["arguments"])
        if self.name and new.get("name") == self.name:
            del new["name"]
        return new


def _place_of(given: Mapping[str, Any], calls: list[_ToolCall]) -> int | None:
    """The place of the call that a part continues, None if it begins one.

    By its index, else by its id, else the last one. Another id begins another call, and so does a name after whole
    arguments.
    """
    index, own = given.get("index"), given.get("id")
    places = range(len(calls) - 1, -1, -1)
    if isinstance(index, int):
        place = next((one for one in places if calls[one].index == index), None)
    elif own:
        place = next((one for one in places if calls[one].facts.get("id") == own), None)
    else:
        place = next(iter(places), None)
    return None if place is None or _begins(given, calls[place]) else place


def _begins(given: Mapping[str, Any], call: _ToolCall) -> bool:
    own = given.get("id")
    if own and call.id_given and own != call.facts.get("id"):
        return True
    function = given.get("function")
    if not isinstance(function, Mapping) or not function.get("name"):
        return False
    if not own and given.get("index") is None and function["name"] != call.name:
        return True
    return call.is_whole and (bool(function.get("arguments")) or function["name"] != call.name)


def _in_order(calls: list[_ToolCall]) -> list[_ToolCall]:
    """By their senders' indexes where all have one, else as they came."""
    if any(call.index is None for call in calls):
        return calls
    return sorted(calls, key=lambda call: call.index or 0)


def has_substance(message: Mapping[str, Any]) -> bool:
    """Whether a message or delta holds anything besides its role and blanks."""
    values = [value for name, value in message.items() if name != "role"]
    return any(value.strip() if isinstance(value, str) else value for value in values)


_ENVELOPES = (
    "data",
    "result",
    "response",
    "output",
    "body",
)  # in which relays and gateways hand a completion on


def whole_of(document: Any) -> Any:
    """A completion as clients expect it, itself if nothing is odd.

    It may stand in an envelope or a list; have one choice instead of a list, deltas or texts instead of messages,
    contents as lists of texts, and arguments as objects.
    """
    document = _taken_out(document)
    choices = document.get("choices") if isinstance(document, Mapping) else None
    choices = [choices] if isinstance(choices, Mapping) else choices
    if not isinstance(choices, list):
        return document
    if any(isinstance(one, Mapping) and "delta" in one and "message" not in one for one in choices):
        assembly = Assembly()
        assembly.add({**document, "choices": choices})
        return assembly.completion()
    plain = [_plain_choice(one) for one in choices]
    return document if plain == document["choices"] else {**document, "choices": plain}


def _taken_out(document: Any) -> Any:
    """The completion inside an envelope, with the usage that stands next to it; anything else as it is."""
    if isinstance(document, list) and len(document) == 1 and _is_completion(document[0]):
        return document[0]
    if not isinstance(document, Mapping) or "choices" in document:
        return document
    held = (_opened(document.get(name)) for name in _ENVELOPES)
    found = next((one for one in held if _is_completion(one)), None)
    if found is None:
        return document
    return {**found, "usage": document["usage"]} if "usage" in document and "usage" not in found else found


def _opened(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _is_completion(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.get("choices"))


def _plain_choice(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    message, text = choice.get("message"), choice.get("text")
    if isinstance(message, Mapping):
        plain = _with_texts_as_arguments(plain_message(message))
        return choice if plain is message else {**choice, "message": plain}
    if isinstance(text, str) or _reason(choice.get("finish_reason")):
        rest = {name: value for name, value in choice.items() if name != "text"}
        return {**rest, "message": {"role": "assistant", "content": text}}
    return choice


def _with_texts_as_arguments(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose tool calls have their arguments as a text, as the protocol has it."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    plain = [_with_text_as_arguments(call) for call in calls]
    return message if plain == calls else {**message, "tool_calls": plain}


def _with_text_as_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), Mapping | list):
        return call
    return {**call, "function": {**function, "arguments": _as_text(function["arguments"])}}


def _as_text(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


_TEXT_PARTS = {
    "text": "content",
    "output_text": "content",
    "thinking": "reasoning_content",
    "reasoning": "reasoning_content",
    "refusal": "refusal",
}


def plain_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message or delta whose content, if it comes as a list of nothing but texts, is one text."""
    parts = message.get("content")
    parts = [parts] if isinstance(parts, Mapping) else parts
    if not isinstance(parts, list):
        return message
    texts: dict[str, str] = {"content": ""}
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        name = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
        text = _text_of_part(part, str(kind))
        if name is None or text is None:
            return message
        texts[name] = texts.get(name, "") + text
    return {
        **message,
        **{name: text for name, text in texts.items() if name == "content" or not message.get(name)},
    }


def _text_of_part(part: Any, kind: str) -> str | None:
    """The text of a part: its own, or that of the parts inside it."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return None
    inner = next((part[name] for name in ("text", kind) if part.get(name) is not None), None)
    if isinstance(inner, list):
        texts = [_text_of_part(one, "text") for one in inner]
        return "".join(text for text in texts if text is not None)
    return inner if isinstance(inner, str) else None


def _reason(value: Any) -> str | None:
    known = isinstance(value, str) and value.strip().lower() not in _NO_REASON
    return value if known else None


def _grown(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping extended by a delta: texts and lists grow, everything else is set once."""
    grown = dict(known)
    for name, value in more.items():
        if value is not None:
            grown[name] = _grown_value(name, grown.get(name), value)
        else:
            grown.setdefault(name, None)
    return grown


def _grown_value(name: str, known: Any, more: Any) -> Any:
    if isinstance(more, list) and any(isinstance(item, Mapping) and "index" in item for item in more):
        return _grown_items(known if isinstance(known, list) else [], more)
    if known is None or name in _ONCE:
        return known or more
    if isinstance(known, str) and isinstance(more, str):
        return known if known == more and name not in _PARTS else known + more
    if isinstance(known, list | str) and isinstance(more, list | str):
        return [*_as_parts(known), *_as_parts(more)]
    if isinstance(known, Mapping) and isinstance(more, Mapping):
        return _grown(known, more)
    return more


def _as_parts(value: list[Any] | str) -> list[Any]:
    if isinstance(value, list):
        return value
    return [{"type": "text", "text": value}] if value else []


def _grown_items(known: list[Any], more: list[Any]) -> list[Any]:
    """Lists such as reasoning_details, whose items arrive in parts with an index."""
    items: dict[int, dict[str, Any]] = {}
    for item in (item for item in (*known, *more) if isinstance(item, Mapping)):
        index = item["index"] if isinstance(item.get("index"), int) else 0
        items[index] = _grown(items.get(index, {}), {**item, "index": index})
    return [items[index] for index in sorted(items)]


def chunks_of(completion: Mapping[str, Any]) -> Iterator[Completion]:
    """A completion as chunks: for each choice one with content and one that ends it, then the usage."""
    head = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    head["object"] = _CHUNK
    for choice in completion.get("choices") or ():
        index, message = choice.get("index", 0), dict(choice.get("message") or {})
        if isinstance(message.get("tool_calls"), list):
            calls = enumerate(message["tool_calls"])
            message["tool_calls"] = [{"index": number, **call} for number, call in calls]
        opening = {
            "index": index,
            "delta": message,
            "logprobs": choice.get("logprobs"),
            "finish_reason": None,
        }
        ending = {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice.get("finish_reason")}
        yield {**head, "choices": [opening]}
        yield {**head, "choices": [ending]}
    if completion.get("usage") is not None:
        yield {**head, "choices": [], "usage": completion["usage"]}


def for_client(chunk: Mapping[str, Any], *, with_usage: bool) -> Mapping[str, Any] | None:
    """A chunk as the client asked for it; None if it holds only the usage and the client did not ask for that.

    The upstream is always asked for the usage.
    """
    if with_usage:
        return chunk if "usage" in chunk else {**chunk, "usage": None}
    if chunk.get("usage") is not None and not chunk.get("choices"):
        return None
    return {name: value for name, value in chunk.items() if name != "usage"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of one run, numbered so that a gap is noticed. `data` None: the run ended after `number` chunks."""

    release: int
    number: int  # from 0
    data: bytes | None = None

    def encode(self) -> bytes:
        """As bytes for Redis."""
        mark = b"." if self.data is None else b":"
        return b"%d %d%b%b" % (self.release, self.number, mark, self.data or b"")

    @classmethod
    def decode(cls, message: bytes) -> Piece:
        """Inverse of `encode`. Raises ValueError for anything else."""
        release, _, rest = message.partition(b" ")
        digits = len(rest) - len(rest.lstrip(b"0123456789"))
        mark, number = rest[digits : digits + 1], int(rest[:digits])
        if mark not in (b".", b":"):
            raise ValueError("not a piece")
        return cls(int(release), number, rest[digits + 1 :] if mark == b":" else None)
