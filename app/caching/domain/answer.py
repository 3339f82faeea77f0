"""Cached answers: what one holds, how it is serialized, and the port of the stores that keep them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from typing import Protocol

from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An upstream's answer, and what it cost."""

    result: str  # JSON text on one line
    usage: TokenUsage | None = None
    cost: CallCost | None = None  # None: unknown
    simulated: bool = False
    until: float | None = field(default=None, compare=False)  # Unix seconds: when it expires; None: unknown

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


class AnswerCache(Protocol):
    """A store of answers. Never raises: a store that fails counts as empty."""

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key."""

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Cache an answer for so many seconds, replacing an older one."""

    def stamp(self) -> str | None:
        """A value that changes whenever any process replaces an answer. None: it cannot be read now."""

    def close(self) -> None:
        """Close its connections."""


class NoAnswers:
    """A cache that stores nothing."""

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:  # noqa: ARG002
        """Finds nothing."""
        return {}

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Stores nothing."""

    def stamp(self) -> str | None:
        """Never changes."""
        return ""

    def close(self) -> None:
        """Has nothing to close."""
