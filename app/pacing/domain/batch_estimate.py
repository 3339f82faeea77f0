"""What a batch would come to, before it is submitted: tokens, money and time, as far as they can be known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.settings.domain.routing import WINDOW, Route, Topology


@dataclass(frozen=True, slots=True)
class Demand:
    """What a batch asks of one model: requests, and estimated tokens of prompts and answers together."""

    requests: int = 0
    tokens: int = 0

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.requests + other.requests, self.tokens + other.tokens)


def seconds_for(topology: Topology, demands: Mapping[str, Demand]) -> float | None:
    """How long it takes at least, if nothing else runs: the slowest model's first tier at its told figures.

    Models are taken as if they shared no quota. None when a quota in the way is not told.
    """
    each = [_seconds(topology, model, demand) for model, demand in demands.items()]
    known = [seconds for seconds in each if seconds is not None]
    return max(known, default=0.0) if len(known) == len(each) else None


def _seconds(topology: Topology, model: str, demand: Demand) -> float | None:
    tiers = topology.models.get(model, ())
    first = tiers[0] if tiers else ()
    requests = _capacity(topology, first, "rpm")
    tokens = _capacity(topology, first, "tpm")
    if requests is None and tokens is None:
        return None
    by_requests = demand.requests / requests if requests else 0.0
    by_tokens = demand.tokens / tokens if tokens else 0.0
    return max(by_requests, by_tokens) * WINDOW


def _capacity(topology: Topology, routes: Iterable[Route], figure: str) -> float | None:
    """What the routes can take a minute, all together; None when one of them has no told limit.

    Keys of one account share it: each account counts once, by the narrowest of its quotas.
    """
    narrowest: dict[str, float] = {}
    for route in routes:
        told = [getattr(topology.quotas[name], figure) for name in route.quotas if name in topology.quotas]
        figures = [value for value in told if value is not None]
        if not figures:
            return None
        narrowest[route.account] = min(figures)
    return sum(narrowest.values()) or None
