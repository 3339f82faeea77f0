"""Which limit a refusal is about, when the upstream does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Figure = Literal["calls", "pace", "tokens"]

NEAR = 0.05  # a part of a limit
USED = 0.85  # of its level must a pace have been used to be what held the backlog back


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a figure was in use when a call was refused."""

    name: Figure
    amount: float
    level: float  # what was allowed; infinite when nothing held it
    known: float | None  # where its limit is believed to be
    bound: bool  # whether it held the backlog back

    @property
    def at_limit(self) -> bool:
        """Whether about as much was in use as is known to be taken; nothing being known, as much as was allowed."""
        if self.known is not None:
            return self.amount >= (1 - NEAR) * self.known
        return self.amount >= (1 - NEAR if self.name == "calls" else USED) * self.level


def blame(named: Figure | None, calls: Use, pace: Use, proved: int) -> Sequence[Figure]:
    """What to cut: the figure that the refusal names, else the calls at once, the calls a second, or both.

    1. Not the calls at once if as many were taken a moment ago (`proved` is the most of which one succeeded).
    2. What was in use up to its known limit.
    3. Of two such, what held the backlog back; else the calls at once, whose number is the more telling one.
    """
    if named is not None:
        return (named,)
    if calls.amount < proved - max(2.0, 0.1 * proved):
        return ("pace",)
    suspects = [use.name for use in (calls, pace) if use.at_limit]
    if len(suspects) == 2 and calls.known is not None:
        return ("pace",) if pace.bound and not calls.bound else ("calls",)
    return suspects or ("calls", "pace")
