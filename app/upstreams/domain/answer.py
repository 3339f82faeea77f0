"""What an answer amounts to: whether it is complete, and the tokens that it used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.tasks.domain.attempt import Finish, TokenUsage
from app.upstreams.domain.chat_stream import has_substance, usage_in

# Finish reasons of OpenAI's and of other providers' making.
_TRUNCATED = frozenset(
    {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"}
)
_FILTERED = frozenset(
    {
        *("content_filter", "content-filter", "safety", "sensitive", "recitation"),
        *("blocklist", "prohibited_content", "spii", "image_safety"),
    }
)
_REFUSED = frozenset({"refusal", "refused"})
_REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_ANSWER = ("content", "tool_calls", "function_call", "audio", "images", "video")
_WORST_FIRST = tuple(Finish)
_MAX_TOKENS = 2**31 - 1


def finish_of(document: Mapping[str, Any], fits: Callable[[str], bool] | None = None) -> Finish:
    """How an answer finished; of several choices, the worst. `fits`: whether a text is the JSON that was asked for."""
    choices = document.get("choices")
    found = (
        [_finish(one, fits) for one in choices if isinstance(one, Mapping)]
        if isinstance(choices, list)
        else []
    )
    return min(found, key=_WORST_FIRST.index, default=Finish.EMPTY)


def _finish(choice: Mapping[str, Any], fits: Callable[[str], bool] | None) -> Finish:
    given, reason = choice.get("message"), _reason(choice)
    message: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    if reason in _FILTERED:
        return Finish.CONTENT_FILTER
    if reason in _TRUNCATED:
        return Finish.TRUNCATED
    if reason in _REFUSED or (message.get("refusal") and not _said(message)):
        return Finish.REFUSED
    if not _said(message):
        return Finish.REASONING_ONLY if _any_of(message, _REASONING) else Finish.EMPTY
    content = message.get("content")
    if fits is None or message.get("tool_calls") or not isinstance(content, str) or fits(content):
        return Finish.COMPLETE
    return Finish.INVALID_JSON


def _reason(choice: Mapping[str, Any]) -> str:
    """Its finish reason in lower case, without what some add: `content_filter: PROHIBITED_CONTENT`."""
    return str(choice.get("finish_reason")).lower().partition(":")[0].strip()


def _said(message: Mapping[str, Any]) -> bool:
    return _any_of(message, _ANSWER)


def _any_of(message: Mapping[str, Any], names: Sequence[str]) -> bool:
    return has_substance({name: message[name] for name in names if name in message})


def was_withheld(choice: Mapping[str, Any]) -> bool:
    """Whether a filter left nothing of an answer."""
    return _reason(choice) in _FILTERED and not _said(choice["message"])


def usage_of(document: Mapping[str, Any]) -> TokenUsage | None:
    """Token counts under OpenAI's, DeepSeek's or Anthropic's names; None where they do not say enough.

    What is missing between prompt, completion and total is output: some count reasoning apart from the completion.
    """
    value = usage_in(document)
    if value is None:
        return None
    prompt = _named(value, "prompt_tokens", "input_tokens")
    completion = _named(value, "completion_tokens", "output_tokens")
    reasoning = _inside(value, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens")
    reasoning = reasoning or _named(value, "reasoning_tokens") or 0
    total = _named(value, "total_tokens")
    if prompt is None and None not in (completion, total):
        prompt = max(0, (total or 0) - (completion or 0))
    if prompt is None or (completion is None and total is None):
        return None
    output = max(completion or 0, (total or 0) - prompt)
    if completion is not None and total is None and reasoning > completion:
        output = completion + reasoning
    cached = _inside(value, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens")
    cached = _named(value, "prompt_cache_hit_tokens", "cached_tokens") if cached is None else cached
    return TokenUsage(prompt, output, min(cached or 0, prompt), reasoning)


def _named(value: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(value.get(name))) is not None), None)


def _inside(value: Mapping[str, Any], outer: Sequence[str], inner: str) -> int | None:
    details = next((found for name in outer if isinstance(found := value.get(name), Mapping)), {})
    return _count(details.get(inner))


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TOKENS:
        return None
    return value
