"""Which routes are open while planning, and whose turn it is among them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Protocol

from app.pacing.domain.quota_ledger import QuotaLedger
from app.pacing.domain.waiting import QueueHead
from app.settings.domain.routing import Balance, Route, Topology
from app.tasks.domain.eligibility import may_use, upstream_note

TURN = "turn:"  # resource of a tier's keys

Rank = tuple[float, float]


class RouteSlots(Protocol):
    """Where calls can start."""

    def free(self, key: str) -> int:
        """Free worker slots for a key."""


class RouteAvailability:
    """Open routes by model, tier and rank. What closes stays closed for this plan."""

    def __init__(
        self,
        topology: Topology,
        gauges_of: Callable[[Route], tuple[QuotaLedger, ...]],
        slots: RouteSlots,
        start: Callable[[str, str], float],
        load: Callable[[Balance, Route], float],
        wall: float,
    ) -> None:
        """`start` gives a flow's virtual time, `load` what a tier is balanced by; `wall` is Unix seconds."""
        self._topology = topology
        self._gauges_of = gauges_of
        self._slots = slots
        self._start = start
        self._load = load
        self._wall = wall
        self._turns: dict[tuple[str, int], list[tuple[Rank, int, Route]]] = {}

    def is_open(self, route: Route) -> bool:
        """Whether a worker has a free slot and every quota room for one more call, tokens aside."""
        return self._slots.free(route.key) > 0 and all(g.is_open() for g in self._gauges_of(route))

    def first(self, model: str) -> Route | None:
        """The route whose turn it is in the first tier with an open one."""
        for index in range(len(self._topology.models.get(model, ()))):
            if (route := self._next(model, index)) is not None:
                return route
        return None

    def of(self, model: str, head: QueueHead) -> list[Route]:
        """Open routes that this task may use, the one to try first at the head.

        By tier and turn; but those at another upstream than the one that failed it come first, then those by other
        keys than it should avoid.
        """
        routes = [
            route
            for index, tier in enumerate(self._topology.models.get(model, ()))
            if self._may_use(model, index, head)
            for route in sorted(tier, key=lambda r: self._rank(model, r))
            if self.is_open(route)
        ]
        if head.avoid:
            routes.sort(key=lambda r: (upstream_note(r.upstream) in head.avoid, r.key in head.avoid))
        return routes

    def may_serve(self, model: str, head: QueueHead) -> Iterator[Route]:
        """Every route that this task may use, open or not."""
        for index, tier in enumerate(self._topology.models.get(model, ())):
            if self._may_use(model, index, head):
                yield from tier

    def _may_use(self, model: str, index: int, head: QueueHead) -> bool:
        rule = self._topology.policy(model).rule(index)
        if rule.is_plain and not head.avoid:
            return True
        return may_use(rule, head.facts, head.avoid, self._wall)

    def _next(self, model: str, index: int) -> Route | None:
        turns = self._turns.get((model, index))
        if turns is None:
            tier = self._topology.models[model][index]
            turns = [(self._rank(model, route), at, route) for at, route in enumerate(tier)]
            heapq.heapify(turns)
            self._turns[model, index] = turns
        while turns:
            rank, at, route = turns[0]
            if not self.is_open(route):
                heapq.heappop(turns)
            elif (current := self._rank(model, route)) > rank:  # ranks only rise: stale ones sink
                heapq.heapreplace(turns, (current, at, route))
            else:
                return route
        return None

    def _rank(self, model: str, route: Route) -> Rank:
        turn = self._start(TURN + model, route.key)
        balance = self._topology.policy(model).balance
        return (0.0 if balance is Balance.WEIGHTED else self._load(balance, route), turn)
