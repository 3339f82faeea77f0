"""Which limit a refusal is about: the one its words name, else the one that was most used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.upstreams.domain.upstream_error import UpstreamError

Figure = Literal["calls", "pace", "tokens"]

NEAR = 0.05  # a part of a limit
USED = 0.85  # of its level must a pace have been used to be what held the backlog back
FEW = 8  # calls at once: fewer are no telling number
BEYOND = 1.25  # times a known pace, taken without a refusal: the limit is not there


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How much of a figure was in use when a call was refused."""

    name: Figure
    amount: float
    level: float  # what was allowed; infinite when nothing held it
    known: float | None  # where its limit is believed to be
    bound: bool  # whether it held the backlog back
    slack: float = 0.0  # by what part the amount may be too high or too low

    @property
    def at_limit(self) -> bool:
        """Whether about as much was in use as is known to be taken; nothing being known, as much as was allowed."""
        if self.known is not None:
            return self.amount >= (1 - NEAR) * self.known
        return self.amount >= (1 - NEAR if self.name == "calls" else USED) * self.level

    @property
    def is_beyond(self) -> bool:
        """Whether more is in use than the limit that is believed in: it cannot be where it is believed to be."""
        return self.known is not None and self.amount > BEYOND * self.known


def attribute_refusal(
    named: Figure | None, calls: LimitUsage, pace: LimitUsage, proved: int
) -> Sequence[Figure]:
    """What to cut: the figure that the refusal names, else the calls at once, the calls a second, or both.

    1. Not the calls at once if as many were taken a moment ago (`proved` is the most of which one succeeded).
    2. What was in use up to its known limit. A pace far beyond its own has no limit there: then the calls at once.
    3. Of two such, what held the backlog back; else the calls at once, whose number is the more telling one.
    """
    if named is not None:
        return (named,)
    if calls.amount < proved - max(2.0, max(0.1, calls.slack) * proved):
        return ("pace",)
    if pace.is_beyond and calls.known is not None and calls.amount >= FEW:
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
    """`calls` at once, `tokens` or `pace` (calls a minute or second); None when it names none, or more than one."""
    text = f"{error.code} {error.type} {error.message}"
    named: set[Figure] = set()
    if _CALLS.search(text) or "并发" in text:
        named.add("calls")
    if _TOKENS.search(text):
        named.add("tokens")
    if _PACE.search(text):
        named.add("pace")
    return named.pop() if len(named) == 1 else None
