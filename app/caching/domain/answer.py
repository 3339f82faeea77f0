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
    """An upstream's answer, and what it took to get it."""

    result: str  # JSON text on one line
    usage: TokenUsage | None = None
    cost: CallCost | None = None  # None: unknown
    simulated: bool = False
    until: float | None = field(
        default=None, compare=False
    )  # Unix seconds: how long it is kept; None: nobody says

    @property
    def currency(self) -> str | None:
        """In what its cost is counted."""
        return self.cost.currency if self.cost else None


def write(key: str, answer: CachedAnswer) -> str:
    """An entry: a line of JSON with the key it belongs to, then the result as it is. Simulated ones are refused."""
    if answer.simulated:
        raise ValueError("a simulated answer is never kept")
    usage = astuple(answer.usage) if answer.usage else None
    cost = [answer.cost.picos, answer.cost.currency] if answer.cost else None
    head = {"key": key, "usage": usage, "cost": cost, "until": answer.until}
    return f"{json.dumps(head)}\n{answer.result}"


def read(key: str, entry: str) -> CachedAnswer | None:
    """The answer in an entry; None when it is another key's, or not whole."""
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
    """Answers kept to be given again. Whatever keeps it from answering counts as nothing kept: it never raises."""

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        """The answers that are kept, by key."""

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Keep an answer for so long, in the place of an older one."""

    def stamp(self) -> str | None:
        """Changes whenever an answer takes an older one's place, in whatever process. None: it cannot be told now."""

    def close(self) -> None:
        """Let go of what it holds open."""


class NoAnswers:
    """Keeps nothing."""

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:  # noqa: ARG002
        """Nothing."""
        return {}

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Keeps nothing."""

    def stamp(self) -> str | None:
        """Nothing is ever replaced."""
        return ""

    def close(self) -> None:
        """Holds nothing."""
