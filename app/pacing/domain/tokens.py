"""How many tokens a request may come to, before anybody has counted them, and how calls correct the estimate.

The rule of thumb is DeepSeek's: an English character is about 0.3 token, a Chinese one about 0.6. It leans
high for prose and low for rare scripts; what the upstream counts settles the difference after the call.

Everything in a body counts as prompt (names of fields, schemas, stop lists and unknown fields too), except the settings
in `_SETTINGS`. Images, audio, video and files count `PER_MEDIA` each, however long their data is.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.pacing.domain.backlog import WaitingList

PER_CHARACTER = 0.3
PER_CJK_CHARACTER = 0.6
DEFAULT_ANSWER = 512  # tokens reserved upstream for an answer whose length the request leaves open
# Tokens reserved in a budget for such an answer, where the model has no `max_output_tokens`: what DeepSeek's chat
# model gives where `max_tokens` is left out (api-docs.deepseek.com, create chat completion).
OPEN_ANSWER = 4096
# Tokens of an image, a recording or a file. An image of 1024 x 1024 is 765 tokens at OpenAI (platform.openai.com,
# images and vision, high detail), about 1,400 at Anthropic (docs.anthropic.com, vision: width x height / 750).
PER_MEDIA = 1000  # unless configured otherwise
LARGEST = 2**31 - 1  # tokens of one request: what the column of the estimate takes
LENGTHS = ("max_tokens", "max_completion_tokens")  # limits of one answer
CHOICES = ("n", "best_of")  # how many answers are made

# Radicals to unified ideographs with kana and hangul between, compatibility forms, full-width forms, planes 2-3.
_CJK = re.compile("[⺀-鿿ꀀ-꓏가-힯豈-﫿＀-￯\U00020000-\U0003ffff]+")
_DATA_URL = re.compile(
    r"data:(?:[\w.+-]{1,100}/[\w.+-]{1,100})?(?:;\s?[\w=.+% \"-]{1,100}){0,4};base64,", re.IGNORECASE
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_BASE64_LINES = re.compile(r"[A-Za-z0-9+/_\-\r\n]*={0,2}\s*")
_MEDIA = frozenset(
    {"image_url", "input_image", "image", "video_url", "video", "audio_url", "input_audio", "audio", "file"}
    | {"input_file", "file_url", "source", "inline_data"}
)
_RAW = frozenset({"data", "file_data", "b64_json", "url"})  # base64 without a scheme before it
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
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    open_answer: int = DEFAULT_ANSWER,
    per_media: int = PER_MEDIA,
) -> int:
    """Tokens of prompt and answers together, at least 1: what a call reserves in the token buckets.

    `open_answer`: tokens of an answer whose length the request leaves open; `per_media`: of an image or a file.
    """
    answers = choices(parameters) * (answer_limit(parameters) or open_answer)
    return max(1, prompt_tokens(messages, parameters, per_media) + answers)


def prompt_tokens(
    messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], per_media: int = PER_MEDIA
) -> int:
    """Tokens of the prompt alone, by the rule of thumb: of everything that is not a known setting."""
    rest = {name: value for name, value in parameters.items() if not _is_setting(name, value)}
    said = sum(_message_tokens(message, per_media) for message in messages)
    return math.ceil(said + (_tokens_in(rest, per_media) if rest else 0.0))


def asked_for(parameters: Mapping[str, Any]) -> int:
    """The most tokens that the answers may have together; 0 where the request leaves their length open.

    Several answers of open length count as `DEFAULT_ANSWER` each.
    """
    count, limit = choices(parameters), answer_limit(parameters)
    return count * limit if limit or count == 1 else count * DEFAULT_ANSWER


@dataclass(slots=True)
class AnswerLimits:
    """How many answers many requests ask for, by the limit of their length; and what their prompts come to."""

    prompts: int = 0  # tokens
    answers: Counter[int] = field(default_factory=Counter)  # by their limit in tokens

    def add(self, parameters: Mapping[str, Any], estimated: int) -> None:
        """Count a request that was estimated at so many tokens."""
        limit, count = answer_limit(parameters), choices(parameters)
        self.prompts += max(0, estimated - count * (limit or DEFAULT_ANSWER))
        self.answers[limit or LARGEST] += count

    def tokens(self, mean: float) -> float:
        """All tokens, if answers are so long on average, or as long as they may be."""
        return self.prompts + sum((count * min(mean, limit) for limit, count in self.answers.items()), 0.0)


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


def _message_tokens(message: Mapping[str, Any], per_media: int) -> float:
    """Tokens of one message; most are a role and a text, and need no search."""
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and isinstance(role, str) and isinstance(content, str):
        return text_tokens(role) + _text_with_data(content, per_media)
    return _tokens_in(message, per_media)


def _tokens_in(value: Any, per_media: int) -> float:
    """Tokens of all that stands inside a JSON value; the data of an image or a file counts as such."""
    total, left = 0.0, [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            total += _text_with_data(item, per_media)
        elif isinstance(item, Mapping):
            total += sum(text_tokens(name) for name in item if name not in _PLAIN)
            for name, part in item.items():
                if _is_raw_data(name, part):
                    total += per_media
                else:
                    total += per_media * _is_remote(name, part)
                    left.append(part)
        elif isinstance(item, Sequence):
            left.extend(item)
        elif item is not None:
            total += text_tokens(str(item))
    return total


def _text_with_data(text: str, per_media: int) -> float:
    """Tokens of a text; data URLs in it count `per_media` each, whatever their length."""
    if "64," not in text:
        return text_tokens(text)
    total, place = 0.0, 0
    for found in _DATA_URL.finditer(text):
        if found.start() < place:
            continue
        total += text_tokens(text[place : found.start()]) + per_media
        end = _BASE64.match(text, found.end())
        place = end.end() if end else found.end()
    return total + text_tokens(text[place:])


def _is_raw_data(name: str, value: Any) -> bool:
    return (
        (name in _RAW or name in _MEDIA)
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


KEPT_AS = "tokens:"  # before a model's name, among what is kept by quota
FEW = 5  # calls below which nothing is believed
_WEIGHT = 0.05
_KEPT = 200  # answers
_QUANTILE = 0.95
_MOST = 2**31 - 1


@dataclass(slots=True)
class TokenLearner:
    """What one model's calls taught. Means are in tokens a call."""

    calls: int = 0
    estimated: float = 0.0
    real: float = 0.0
    off: float = 0.0  # mean distance of a prompt from its corrected estimate
    answers: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))

    @property
    def ratio(self) -> float:
        """Real tokens for one by the rule of thumb."""
        return self.real / self.estimated if self.calls >= FEW and self.estimated > 0 else 1.0

    def saw(self, estimated: int, real: int, answer: int, asked: int) -> None:
        """A call came back: its prompt as estimated and as counted, its answer, and the limit asked for (0: none)."""
        if real > 0 and estimated > 0:
            self.calls += 1
            weight = max(_WEIGHT, 1 / self.calls)
            self.estimated += weight * (estimated - self.estimated)
            self.real += weight * (real - self.real)
            distance = abs(real - self.real / self.estimated * estimated)
            self.off += weight * (distance - self.off)
        if asked == 0 and answer > 0:
            self.answers.append(answer)

    def reserve(self, estimate: int, asked: int) -> int:
        """What a call of this estimate (`tokens.estimate`) is to reserve; at least 1."""
        prompt = estimate - (asked or DEFAULT_ANSWER)
        if self.calls >= FEW:
            corrected = prompt * self.ratio
            prompt = math.ceil(corrected + min(self.off, corrected))
        return min(_MOST, max(1, prompt + (asked or self.answer())))

    def answer(self) -> int:
        """Tokens reserved for an answer of which the request says nothing."""
        if len(self.answers) < FEW:
            return DEFAULT_ANSWER
        return sorted(self.answers)[math.ceil(_QUANTILE * len(self.answers)) - 1]


def to_facts(estimator: TokenLearner) -> dict[str, Any]:
    """As plain values, to be kept."""
    return {
        "calls": estimator.calls,
        "estimated": round(estimator.estimated, 3),
        "real": round(estimator.real, 3),
        "off": round(estimator.off, 3),
        "answers": list(estimator.answers),
    }


def from_facts(facts: Mapping[str, Any]) -> TokenLearner:
    """Read what was kept; what is missing starts anew."""
    estimator = TokenLearner(
        int(facts.get("calls", 0)),
        float(facts.get("estimated", 0.0)),
        float(facts.get("real", 0.0)),
        float(facts.get("off", 0.0)),
    )
    estimator.answers.extend(int(one) for one in facts.get("answers", ()))
    return estimator


@dataclass(frozen=True, slots=True)
class TokensUsed:
    """What a call used, and what was known of it before. `model` is the client's word for it."""

    model: str
    estimate: int  # by tokens.estimate: prompt and answer
    asked: int  # the answer's limit; 0: none
    prompt: int
    answer: int


@dataclass(slots=True)
class TokenBook:
    """What all models taught."""

    models: dict[str, TokenLearner] = field(default_factory=dict)

    def saw(self, used: TokensUsed) -> None:
        """A call came back."""
        estimated = used.estimate - (used.asked or DEFAULT_ANSWER)
        estimator = self.models.setdefault(used.model, TokenLearner())
        estimator.saw(estimated, used.prompt, used.answer, used.asked)

    def reserved(self, waiting: Iterable[WaitingList]) -> tuple[WaitingList, ...]:
        """Lists with the tokens that each head is to reserve."""
        return tuple(
            one if (learned := self.models.get(one.model)) is None else _reserved(one, learned)
            for one in waiting
        )

    def facts(self) -> dict[str, dict[str, Any]]:
        """As plain values, under names that no quota has."""
        return {KEPT_AS + model: to_facts(estimator) for model, estimator in list(self.models.items())}

    def recall(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Read what was kept, among other things."""
        for name, kept in facts.items():
            if name.startswith(KEPT_AS):
                self.models[name[len(KEPT_AS) :]] = from_facts(kept)


def _reserved(one: WaitingList, learned: TokenLearner) -> WaitingList:
    heads = (
        replace(head, estimate=float(learned.reserve(int(head.estimate), head.asked))) for head in one.heads
    )
    return replace(one, heads=tuple(heads))
