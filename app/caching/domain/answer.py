"""Cached answers: what one holds, how it is serialized, and the port of the stores that keep them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol

from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage


class FallbackKind(StrEnum):
    """What stands in for an upstream's answer."""

    TEXT = "text"  # the text configured for its model
    STALE = "stale"  # a cached answer past its lifetime


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An upstream's answer, and what it cost."""

    result: str  # JSON text on one line
    usage: TokenUsage | None = None
    cost: CallCost | None = None  # None: unknown
    simulated: bool = False
    fallback: FallbackKind | None = None  # set where it stands in for an answer that no upstream could give
    until: float | None = field(default=None, compare=False)  # Unix seconds: when it expires; None: unknown

    @property
    def cached(self) -> bool:
        """Whether it comes from the cache, fresh or stale."""
        return self.fallback is not FallbackKind.TEXT

    def is_fresh(self, now: float) -> bool:
        """Whether its lifetime has not passed at `now`, Unix seconds."""
        return self.until is None or now < self.until

    @property
    def currency(self) -> str | None:
        """The currency of its cost."""
        return self.cost.currency if self.cost else None


def write(key: str, answer: CachedAnswer) -> str:
    """Serialize an entry: a line of JSON with its key, then the result. Raises ValueError for a simulated answer."""
    if answer.simulated:
        raise ValueError("a simulated answer is never kept")
    usage = astuple(answer.usage) if answer.usage else None
    cost = [answer.cost.picos, answer.cost.currency] if answer.cost else None
    head = {"key": key, "usage": usage, "cost": cost, "until": answer.until}
    return f"{json.dumps(head)}\n{answer.result}"


def read(key: str, entry: str) -> CachedAnswer | None:
    """The answer in an entry; None when it belongs to another key or is damaged."""
    head, line_break, result = entry.partition("\n")
    try:
        known = json.loads(head)
        usage = TokenUsage(*known["usage"]) if known["usage"] else None
        cost = CallCost(*known["cost"]) if known["cost"] else None
        until = None if (said := known.get("until")) is None else float(said)
    except (ValueError, TypeError, KeyError):
        return None
    if known["key"] != key or not line_break or not result:
        return None
    return CachedAnswer(result, usage, cost, until=until)


@dataclass(frozen=True, slots=True)
class Fallback:
    """What may answer a model's tasks while nothing can serve them."""

    text: str | None = None
    after: float = 30.0  # seconds that a task has waited before, unless everything is known to be down
    stale_seconds: float = 0.0  # how long after its expiry a cached answer is given instead
    always: bool = False  # for requests that do not choose

    def answer(
        self, task_id: str, model: str, cached: CachedAnswer | None, now: float
    ) -> CachedAnswer | None:
        """A cached answer that is not too stale, else the text; None if there is neither. `now`: Unix seconds."""
        if cached is not None and now < (cached.until or 0.0) + self.stale_seconds:
            return replace(cached, fallback=FallbackKind.STALE)
        if self.text is None:
            return None
        completion = json.dumps(degraded_completion(task_id, model, self.text, now), separators=(",", ":"))
        return CachedAnswer(completion, TokenUsage(0, 0), fallback=FallbackKind.TEXT)


def degraded_completion(task_id: str, model: str, text: str, at: float) -> dict[str, Any]:
    """A chat completion of this text; `degraded` says that no model answered. `at`: Unix seconds."""
    message = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{task_id.removeprefix('task_')}",
        "object": "chat.completion",
        "created": int(at),
        "model": model,
        "degraded": True,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


Eviction = Literal["lru", "lfu"]
"""Whether the least recently or the least frequently used answers make room."""


class AnswerCache(Protocol):
    """A store of answers. Never raises: a store that fails counts as empty."""

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key; with `stale` also expired ones that are still there."""

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Record how often answers were used without asking this store, by key."""

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Cache an answer for so many seconds, replacing an older one."""

    def stamp(self) -> str | None:
        """A value that changes whenever any process replaces an answer. None: it cannot be read now."""

    def count(self) -> int | None:
        """How many answers it holds; None: it cannot be read now."""

    def clear(self, scope: str | None) -> int | None:
        """Remove all answers, or those of one scope; returns how many, None if that failed."""

    def close(self) -> None:
        """Close its connections."""


class NoAnswers:
    """A cache that stores nothing."""

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:  # noqa: ARG002
        """Finds nothing."""
        return {}

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Records nothing."""

    def count(self) -> int | None:
        """None."""
        return 0

    def clear(self, scope: str | None) -> int | None:  # noqa: ARG002
        """Removes nothing."""
        return 0

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Stores nothing."""

    def stamp(self) -> str | None:
        """Never changes."""
        return ""

    def close(self) -> None:
        """Has nothing to close."""
