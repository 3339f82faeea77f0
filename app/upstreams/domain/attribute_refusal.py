"""Which limit a refusal is about: the one its words name, else the one that was most used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.upstreams.domain.upstream_error import UpstreamError

Figure = Literal["calls", "pace", "tokens"]

NEAR = 0.05  # fraction of a limit
USED = 0.85  # fraction of its level above which a pace may have held the backlog back
FEW_CALLS = 8  # calls at once: fewer prove nothing
BEYOND = 1.25  # times a known pace, accepted without a refusal: the limit is elsewhere


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How much of a limited metric was in use when a call was refused."""

    name: Figure
    amount: float
    level: float  # what was allowed; infinite without a limit
    known: float | None  # the estimated limit
    bound: bool  # whether it held the backlog back
    slack: float = 0.0  # relative error of the amount

    @property
    def at_limit(self) -> bool:
        """Whether usage was near the estimated limit or, without one, near what was allowed."""
        if self.known is not None:
            return self.amount >= (1 - NEAR) * self.known
        return self.amount >= (1 - NEAR if self.name == "calls" else USED) * self.level

    @property
    def is_beyond(self) -> bool:
        """Whether usage exceeds the estimated limit, which must be wrong then."""
        return self.known is not None and self.amount > BEYOND * self.known


def attribute_refusal(
    named: Figure | None, calls: LimitUsage, pace: LimitUsage, proved: int
) -> Sequence[Figure]:
    """What to reduce: the metric that the refusal names, else calls at once, calls per second, or both.

    1. Not calls at once if as many were accepted a moment ago (`proved`: the most of which one succeeded).
    2. What was used up to its estimated limit. A pace far beyond its own has no limit there: then calls at once.
    3. If both were, the one that held the backlog back; else calls at once, the more reliable number.
    """
    if named is not None:
        return (named,)
    if calls.amount < proved - max(2.0, max(0.1, calls.slack) * proved):
        return ("pace",)
    if pace.is_beyond and calls.known is not None and calls.amount >= FEW_CALLS:
        return ("calls",)
    suspects = [use.name for use in (calls, pace) if use.at_limit]
    if len(suspects) == 2 and calls.known is not None:
        return ("pace",) if pace.bound and not calls.bound else ("calls",)
    return suspects or ("calls", "pace")


_CALLS = re.compile(r"\bconcurren|\bin flight\b|\bsimultaneous|\bparallel requests", re.IGNORECASE)
_TOKENS = re.compile(r"\btokens? per (min|sec|day)|\btpm\b|\btokens[_ ]limit", re.IGNORECASE)
_PACE = re.compile(
    r"\brequests? per (min|sec|day)|\brpm\b|\bqps\b|\brps\b|\btoo many requests per\b", re.IGNORECASE
)


def named_limit(error: UpstreamError) -> Figure | None:
    """`calls` at once, `tokens` or `pace` (calls per minute or second); None if it names none or several."""
    text = f"{error.code} {error.type} {error.message}"
    named: set[Figure] = set()
    if _CALLS.search(text) or "并发" in text:
        named.add("calls")
    if _TOKENS.search(text):
        named.add("tokens")
    if _PACE.search(text):
        named.add("pace")
    return named.pop() if len(named) == 1 else None
