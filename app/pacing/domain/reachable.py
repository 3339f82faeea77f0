"""Which tasks can no longer begin before their deadlines, as surely as that can be known.

Only told requests per minute are believed, as an upper bound: what all routes of a model together may send, a quarter
more in case somebody raises them, and two minutes' worth at once. What learned limits, pauses, other clients and the
length of calls would add to a wait is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.settings.domain.routing import Topology

MARGIN = 1.25  # times what is told
AT_ONCE = 120.0  # seconds' worth of it that may come at once


@dataclass(frozen=True, slots=True)
class ThroughputCeiling:
    """The most calls that a model may ever make: `at_once`, then `rate` a second. `told` a minute."""

    rate: float
    at_once: float
    told: float


def ceiling_of(model: str, topology: Topology) -> ThroughputCeiling | None:
    """What is told for a model; None where some route has no told pace, or not every task may use every tier."""
    if not topology.policy(model).is_plain:
        return None
    rates: dict[str, float] = {}
    for tier in topology.models.get(model, ()):
        for route in tier:
            told = [
                (quota.rpm, name)
                for name in route.quotas
                if (quota := topology.quotas.get(name)) is not None and quota.rpm is not None
            ]
            if not told:
                return None
            rpm, name = min(told)
            rates[name] = rpm
    total = sum(rates.values())
    rate = total / 60 * MARGIN
    return ThroughputCeiling(rate, rate * AT_ONCE, total) if rates else None


def unreachable(deadlines: Sequence[float], now: float, ceiling: ThroughputCeiling) -> list[int]:
    """The places of those that cannot begin in time, of a line's deadlines in the order of serving.

    Who cannot is no more before those behind: they count the others alone.
    """
    found, before = [], 0
    for place, deadline in enumerate(deadlines):
        if now + max(0.0, before - ceiling.at_once) / ceiling.rate > deadline:
            found.append(place)
        else:
            before += 1
    return found
