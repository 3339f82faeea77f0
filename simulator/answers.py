"""Answers: text derived from the prompt alone, and response bodies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from simulator.requests import ChatRequest
from simulator.tokens import TENTHS_PER_TOKEN, count_tenths, count_tokens, cut_to_tokens, has_chinese

_ECHOED_CHARACTERS = 160
# A streamed piece: a word with its leading space, two Chinese characters, or what is in between.
_PIECE = re.compile(r"\s*[\u2e80-\u9fff\uff00-\uffef]{1,2}|\s*[^\s\u2e80-\u9fff\uff00-\uffef]+|\s+")
_FINGERPRINT = "fp_simulated"


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer. Reasoning counts as completion tokens, as at DeepSeek."""

    content: str
    reasoning: str
    finish_reason: str
    completion_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class AnswerUsage:
    """The tokens of one answered call; `hit_tokens` of the prompt came from the prompt cache."""

    prompt_tokens: int
    hit_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    @property
    def miss_tokens(self) -> int:
        """Prompt tokens that were not cached."""
        return self.prompt_tokens - self.hit_tokens

    def as_json(self) -> dict[str, Any]:
        """The `usage` object, field by field as DeepSeek sends it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.hit_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "prompt_cache_hit_tokens": self.hit_tokens,
            "prompt_cache_miss_tokens": self.miss_tokens,
        }


@dataclass(frozen=True, slots=True)
class Envelope:
    """An answer's metadata: id, creation time (Unix seconds) and model.

    `marked`: it says that it is simulated.
    """

    id: str
    created: int
    model: str
    marked: bool = True

    def wrap(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields that all bodies share."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": _FINGERPRINT,
            **({"simulated": True} if self.marked else {}),
        }


def compose(request: ChatRequest, wanted_tokens: int | None) -> Answer:
    """The answer to a request: deterministic, in the prompt's language.

    `wanted_tokens` makes it that long; `max_tokens` cuts it, with finish reason `length`.
    """
    chinese = has_chinese(request.question)
    reasoning = ""
    if request.thinking:
        reasoning = "用户的问题很简短，直接回答。" if chinese else "The question is short; answer it."
    reasoning_tokens = count_tokens(reasoning)
    content = _content(request, chinese)
    if wanted_tokens is not None:
        content = _resize(content, max(1, wanted_tokens - reasoning_tokens))
    tokens, finish_reason = count_tokens(content), "stop"
    if request.max_tokens is not None and reasoning_tokens + tokens > request.max_tokens:
        reasoning = cut_to_tokens(reasoning, request.max_tokens) if reasoning else ""
        reasoning_tokens = count_tokens(reasoning)
        left = request.max_tokens - reasoning_tokens
        content = cut_to_tokens(content, left) if left > 0 else ""
        tokens, finish_reason = count_tokens(content), "length"
    return Answer(content, reasoning, finish_reason, reasoning_tokens + tokens, reasoning_tokens)


def _content(request: ChatRequest, chinese: bool) -> str:
    echo = " ".join(request.question[: 2 * _ECHOED_CHARACTERS].split())[:_ECHOED_CHARACTERS]
    text = (
        f"这是一个模拟的回答。您说的是：{echo}"
        if chinese
        else f"This is a simulated answer. You said: {echo}"
    )
    return orjson.dumps({"answer": text}).decode() if request.json_answer else text


def _resize(content: str, tokens: int) -> str:
    repeated = f"{content} "
    return cut_to_tokens(repeated * (tokens * TENTHS_PER_TOKEN // count_tenths(repeated) + 1), tokens)


def completion(envelope: Envelope, answer: Answer, usage: AnswerUsage) -> bytes:
    """The body of an answer that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return orjson.dumps({**envelope.wrap("chat.completion", [choice]), "usage": usage.as_json()})


def pieces(text: str) -> Iterator[str]:
    """Split a text into streamed pieces."""
    return (match.group() for match in _PIECE.finditer(text))


def stream_events(
    envelope: Envelope, answer: Answer, usage: AnswerUsage, include_usage: bool
) -> Iterator[tuple[int, bytes]]:
    """The events of a streamed answer, each with the tokens it carries.

    The usage stands on the last chunk, as DeepSeek does it; with `include_usage` it comes once more in
    a chunk of its own without choices, as OpenAI does it.
    """
    yield 0, event(_chunk(envelope, {"role": "assistant", "content": ""}))
    for field, text in (("reasoning_content", answer.reasoning), ("content", answer.content)):
        for piece in pieces(text):
            yield count_tokens(piece), event(_chunk(envelope, {field: piece}))
    last = _chunk(envelope, {"content": ""}, answer.finish_reason)
    yield 0, event({**last, "usage": None if include_usage else usage.as_json()})
    if include_usage:
        yield 0, event({**envelope.wrap("chat.completion.chunk", []), "usage": usage.as_json()})
    yield 0, b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _chunk(envelope: Envelope, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return envelope.wrap("chat.completion.chunk", [choice])


def model_list(names: list[str]) -> bytes:
    """The body of `GET /models`."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "deepseek"} for name in names]
    return orjson.dumps({"object": "list", "data": data, "simulated": True})


def balance(total: str, available: bool) -> bytes:
    """The body of `GET /user/balance`, amounts as strings."""
    info = {
        "currency": "USD",
        "total_balance": total,
        "granted_balance": "0.00",
        "topped_up_balance": total,
    }
    return orjson.dumps({"is_available": available, "balance_infos": [info], "simulated": True})
