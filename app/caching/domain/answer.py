"""An answer that may be given again: what it holds, and how it is written down."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, field

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
