"""How many tokens a request may come to, before anybody has counted them.

The rule of thumb is DeepSeek's: an English character is about 0.3 token, a Chinese one about 0.6. It leans
high for prose and low for rare scripts; what the upstream counts settles the difference after the call.

Everything in a body counts as prompt (names of fields, schemas, stop lists and unknown fields too), except the settings
in `_SETTINGS`. Images, audio, video and files count `PER_MEDIA` each, however long their data is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

PER_CHARACTER = 0.3
PER_CJK_CHARACTER = 0.6
DEFAULT_ANSWER = 512  # tokens reserved upstream for an answer whose length the request leaves open
# Tokens reserved in a budget for such an answer, where the model has no `max_output_tokens`: what DeepSeek's chat
# model gives where `max_tokens` is left out (api-docs.deepseek.com, create chat completion).
OPEN_ANSWER = 4096
# Tokens of an image, a recording or a file. An image of 1024 x 1024 is 765 tokens at OpenAI (platform.openai.com,
# images and vision, high detail), about 1,400 at Anthropic (docs.anthropic.com, vision: width x height / 750).
PER_MEDIA = 1000
LARGEST = 2**31 - 1  # tokens of one request: what the column of the estimate takes
LENGTHS = ("max_tokens", "max_completion_tokens")  # limits of one answer
CHOICES = ("n", "best_of")  # how many answers are made

# Radicals to unified ideographs with kana and hangul between, compatibility forms, full-width forms, planes 2-3.
_CJK = re.compile("[⺀-鿿ꀀ-꓏가-힯豈-﫿＀-￯\U00020000-\U0003ffff]+")
_DATA_URL = re.compile(
    r"data:(?:image|audio|video|application)/[\w.+-]{1,100}(?:;[\w=.+%-]{1,100}){0,4};base64,"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_BASE64_LINES = re.compile(r"[A-Za-z0-9+/_\-\r\n]*={0,2}\s*")
_MEDIA = frozenset(
    {"image_url", "input_image", "image", "video_url", "video", "audio_url", "input_audio", "audio", "file"}
    | {"input_file", "file_url", "source", "inline_data"}
)
_RAW = frozenset({"data", "file_data", "b64_json"})  # base64 without a scheme before it
_PLAIN = frozenset({"role", "content", "type", "text", "name"})  # names of fields that every message has
# What steers an answer and is no part of its prompt, as long as it is a number, a flag or a word.
_SETTINGS = frozenset(
    {
        *LENGTHS,
        *CHOICES,
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stream",
        "logprobs",
        "top_logprobs",
    }
    | {
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "parallel_tool_calls",
        "reasoning_effort",
    }
    | {"service_tier", "store", "verbosity", "tool_choice", "user", "user_id", "echo"}
)
_WORD = 64  # characters


def text_tokens(text: str) -> float:
    """Tokens of a text. Runs at hundreds of MB/s for ASCII, tens for CJK."""
    if text.isascii():
        return len(text) * PER_CHARACTER
    cjk = sum(map(len, _CJK.findall(text)))
    return cjk * PER_CJK_CHARACTER + (len(text) - cjk) * PER_CHARACTER


def estimate(
    messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], open_answer: int = DEFAULT_ANSWER
) -> int:
    """Tokens of prompt and answers together, at least 1: what a call reserves in the token buckets.

    `open_answer`: tokens of an answer whose length the request leaves open.
    """
    answers = choices(parameters) * (answer_limit(parameters) or open_answer)
    return max(1, prompt_tokens(messages, parameters) + answers)


def prompt_tokens(messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> int:
    """Tokens of the prompt alone, by the rule of thumb: of everything that is not a known setting."""
    rest = {name: value for name, value in parameters.items() if not _is_setting(name, value)}
    return math.ceil(sum(map(_message_tokens, messages)) + (_tokens_in(rest) if rest else 0.0))


def asked_for(parameters: Mapping[str, Any]) -> int:
    """The most tokens that the answers may have together; 0 where the request leaves their length open.

    Several answers of open length count as `DEFAULT_ANSWER` each.
    """
    count, limit = choices(parameters), answer_limit(parameters)
    return count * limit if limit or count == 1 else count * DEFAULT_ANSWER


def answer_limit(parameters: Mapping[str, Any]) -> int:
    """The most tokens of one answer; 0: open. Upstreams differ in which limit they obey, so that the larger counts."""
    return max(_whole(parameters.get(name)) for name in LENGTHS)


def choices(parameters: Mapping[str, Any]) -> int:
    """How many answers are made, at least 1."""
    return max(1, *(_whole(parameters.get(name)) for name in CHOICES))


def _whole(value: Any) -> int:
    """A positive whole number, 4096.0 too; 0 for anything else, which limits nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if value >= 1 and value == value // 1 < math.inf else 0


def _is_setting(name: str, value: Any) -> bool:
    if value is None:
        return True
    short = len(value) <= _WORD if isinstance(value, str) else isinstance(value, int | float)
    return name in _SETTINGS and short


def _message_tokens(message: Mapping[str, Any]) -> float:
    """Tokens of one message; most are a role and a text, and need no search."""
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and isinstance(role, str) and isinstance(content, str) and ";base64," not in content:
        return text_tokens(role) + text_tokens(content)
    return _tokens_in(message)


def _tokens_in(value: Any) -> float:
    """Tokens of all that stands inside a JSON value; the data of an image or a file counts as such."""
    total, left = 0.0, [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            total += _text_with_data(item) if ";base64," in item else text_tokens(item)
        elif isinstance(item, Mapping):
            total += sum(text_tokens(name) for name in item if name not in _PLAIN)
            for name, part in item.items():
                if _is_raw_data(name, part):
                    total += PER_MEDIA
                else:
                    total += PER_MEDIA * _is_remote(name, part)
                    left.append(part)
        elif isinstance(item, Sequence):
            left.extend(item)
        elif item is not None:
            total += text_tokens(str(item))
    return total


def _text_with_data(text: str) -> float:
    """Tokens of a text in which data URLs of media stand: the text around them, and `PER_MEDIA` for each."""
    total, place = 0.0, 0
    for found in _DATA_URL.finditer(text):
        if found.start() < place:
            continue
        total += text_tokens(text[place : found.start()]) + PER_MEDIA
        end = _BASE64.match(text, found.end())
        place = end.end() if end else found.end()
    return total + text_tokens(text[place:])


def _is_raw_data(name: str, value: Any) -> bool:
    return (
        name in _RAW
        and isinstance(value, str)
        and len(value) > _WORD
        and _BASE64_LINES.fullmatch(value) is not None
    )


def _is_remote(name: str, part: Any) -> bool:
    """Whether this is an image or a file that is given by its address or id: it costs as much as one given inline."""
    if name not in _MEDIA:
        return False
    url = part.get("url") if isinstance(part, Mapping) else part
    has_id = isinstance(part, Mapping) and "file_id" in part
    return has_id or (isinstance(url, str) and url[:8].lower().startswith(("http://", "https://")))
