"""A streamed chat completion: assembled from chunks, split into chunks, and sent in pieces from worker to API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Completion = dict[str, Any]

# Set once, not extended chunk by chunk.
_ONCE = frozenset({"role", "id", "type", "index"})
_WHOLE = "chat.completion"
_CHUNK = "chat.completion.chunk"


class Assembly:
    """Assembles chunks into the completion, as if it had not been streamed. Owned by one thread."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add the next chunk; unknown parts are ignored."""
        for name, value in chunk.items():
            if name not in ("choices", "usage", "object") and value is not None:
                self._head.setdefault(name, value)
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                self._add_choice(choice)

    @property
    def finished(self) -> bool:
        """Whether every choice has a finish reason."""
        return bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values())

    def completion(self) -> Completion:
        """The completion so far."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        whole = {**self._head, "object": _WHOLE, "choices": [_whole_choice(choice) for choice in choices]}
        return whole if self._usage is None else {**whole, "usage": self._usage}

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        known = self._choices.setdefault(
            index, {"index": index, "message": {"role": "assistant"}, "logprobs": None, "finish_reason": None}
        )
        known["finish_reason"] = choice.get("finish_reason") or known["finish_reason"]
        if isinstance(choice.get("logprobs"), Mapping):
            known["logprobs"] = _grown(known["logprobs"] or {}, choice["logprobs"])
        if isinstance(choice.get("delta"), Mapping):
            known["message"] = _grown(known["message"], choice["delta"])


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
        return known + more
    if isinstance(known, list) and isinstance(more, list):
        return [*known, *more]
    if isinstance(known, Mapping) and isinstance(more, Mapping):
        return _grown(known, more)
    return more


def _grown_items(known: list[Any], more: list[Any]) -> list[Any]:
    """Lists such as tool_calls, whose items arrive in parts with an index."""
    items: dict[int, dict[str, Any]] = {}
    for item in (item for item in (*known, *more) if isinstance(item, Mapping)):
        index = item["index"] if isinstance(item.get("index"), int) else 0
        items[index] = _grown(items.get(index, {}), {**item, "index": index})
    return [items[index] for index in sorted(items)]


def _whole_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = {"content": None, **choice["message"]}
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message["tool_calls"] = [
            {name: value for name, value in call.items() if name != "index"}
            for call in calls
            if isinstance(call, Mapping)
        ]
    return {**choice, "message": message}


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
