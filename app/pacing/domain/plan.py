"""What to release now. Pure: a snapshot in, releases out; Redis checks every limit again when they are carried out.

1. For every model that has something waiting, take the first tier with an open route, and there the route whose turn
   it is. A route is open while all its quotas have room for one more call and a worker has a free slot.
2. Of the clients waiting for that model, the one with the smallest share on that route's quotas is next; of several
   models, the one whose next client is furthest behind. Inside a client, priorities take turns at 16:4:1.
3. If no route has tokens enough for the head of its queue, the head holds its turn: nothing else passes the quota
   that will have them first. A head whose tiers are all closed to it is passed over instead.
4. Until nothing can be released, or all heads looked at are used up.

What an operator has paused is not looked at, and a key that is paused or disabled has no free slot. Routes that refuse
every request of a client are closed to its tasks.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.pacing.domain.backlog import ClientQueue, PriorityQueue, QueueHead, WaitingList
from app.pacing.domain.fairness import PRIORITY_WEIGHTS, ClientShare, Shares
from app.pacing.domain.route_availability import (
    NEVER,
    TURN,
    PrefixAffinity,
    QuotaLedger,
    RouteAvailability,
    prefer_cached_account,
)
from app.settings.domain.routing import Balance, QuotaState, Route, Topology
from app.tasks.domain.pauses import Suspension, Suspensions

__all__ = [
    "NEVER",
    "Charge",
    "Plan",
    "QueueHead",
    "Release",
    "Snapshot",
    "Wait",
    "WaitingList",
    "plan",
    "settle_shares",
]

SLOTS = "slots"  # resource of the workers' slots, shared out among models that share no quota
PRIORITY = "priority:"  # resource of a client's priorities


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that planning looks at, at one instant of pacing time."""

    now: float
    waiting: tuple[WaitingList, ...]
    quotas: Mapping[str, QuotaState]
    pools: Mapping[str, str]  # by key: the pool of workers that consume its queue; a key without one is idle
    slots: Mapping[str, int]  # by pool: free slots
    clients: Mapping[str, ClientShare] = field(default_factory=dict)
    call_seconds: float = 1.0  # a call's mean duration: what a slot costs
    flights: Mapping[str, int] = field(default_factory=dict)  # by key: calls in flight
    speeds: Mapping[tuple[str, str], float] = field(
        default_factory=dict
    )  # by key and upstream model: seconds a call
    wall: float = 0.0  # Unix seconds, by which tasks' waiting time counts
    affinity: PrefixAffinity = field(default_factory=PrefixAffinity)  # which account saw a prefix last
    suspensions: Suspensions = field(default_factory=Suspensions)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a release moves on: `flow` on `resource` by `cost`."""

    resource: str
    flow: str
    cost: float


@dataclass(frozen=True, slots=True)
class Release:
    """One task to a key."""

    task_id: str
    queue: str
    step: int
    model: str
    client: str
    route: Route
    estimate: float
    charges: tuple[Charge, ...]
    behind: int = 0  # heads of its list that stay in front of it
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a model's tasks wait: the quota (or `slots`, `route`) that opens last on the route that opens first."""

    reason: str  # the key, where it is shut
    opens_in: float  # seconds; infinite when only an end can free it
    shut: Suspension | None = None  # paused or disabled
    state: QuotaState | None = field(
        default=None, compare=False
    )  # of the quota, after what this tick releases


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and when to look again."""

    releases: tuple[Release, ...]
    wake_in: float  # seconds; infinite when only a settlement or a submission can change anything
    more: bool  # all heads of some list were used up while there was room: there may be more to release
    waits: Mapping[str, Wait]  # by model
    used: int = 0  # heads released or passed over of the list that gave most


def plan(snapshot: Snapshot, topology: Topology, shares: Shares) -> Plan:
    """Decide what to release. Neither argument is changed; charge what was carried out with `settle_shares`."""
    return _Planner(snapshot, topology, shares).run()


def settle_shares(shares: Shares, releases: Iterable[Release]) -> None:
    """Charge what was released."""
    for release in releases:
        for charge in release.charges:
            shares.charge(charge.resource, charge.flow, charge.cost)


@dataclass(slots=True)
class _Candidate:
    """Who would be next for a model, and by which route."""

    share: float
    lane: PriorityQueue
    line: ClientQueue
    head: QueueHead
    route: Route


class _Planner:
    def __init__(self, snapshot: Snapshot, topology: Topology, shares: Shares) -> None:
        self.snapshot = snapshot
        self.topology = topology
        self.base = shares
        self.times: dict[tuple[str, str], float] = {}
        self.slots = dict(snapshot.slots)
        self.flights = dict(snapshot.flights)
        self.gauges: dict[str, QuotaLedger] = {}
        self.routes: dict[Route, tuple[QuotaLedger, ...]] = {}
        self.lanes: dict[str, dict[str, PriorityQueue]] = {}
        self.ranks: dict[tuple[str, Route | None], list[tuple[float, str, PriorityQueue]]] = {}
        self.releases: list[Release] = []
        self.openings = RouteAvailability(
            topology, self._gauges_of, self, self._start, self._load, snapshot.wall
        )
        self.refusing: dict[str, Mapping[str, Suspension]] = {}  # by client: quotas whose routes refuse it
        self.refused: dict[str, Wait] = {}  # by model: why heads were passed over
        self.paused: dict[
            str, Suspension
        ] = {}  # by model: all that waits for it, unless somebody else's does
        for waiting in snapshot.waiting:
            shut = snapshot.suspensions.pauses.holds(waiting.model, waiting.client)
            if shut is not None:
                self.paused[waiting.model] = shut
                continue
            lanes = self.lanes.setdefault(waiting.model, {})
            lane = lanes.setdefault(waiting.client, PriorityQueue(waiting.model, waiting.client))
            lane.lines.append(ClientQueue(waiting))

    def run(self) -> Plan:
        models = sorted(self.lanes)
        while candidates := [c for model in models if (c := self._candidate(model)) is not None]:
            market = self._next_market(candidates)
            self._release(min(market, key=lambda c: c.share), [c.lane.model for c in market])
            models = [c.lane.model for c in candidates]
        waits = {model: Wait("", NEVER, shut) for model, shut in self.paused.items()}
        waits |= {model: self._wait(model) for model in self.lanes}
        more = any(
            lane.dry() and self.openings.first(model) is not None
            for model, lanes in self.lanes.items()
            for lane in lanes.values()
        )
        wake_in = min((w.opens_in for w in waits.values()), default=NEVER)
        lines = (line for lanes in self.lanes.values() for lane in lanes.values() for line in lane.lines)
        return Plan(tuple(self.releases), wake_in, more, waits, max((line.at for line in lines), default=0))

    # -- who is next

    def _next_market(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """The candidates whose turn it is: those that share a quota stand together, the rest take turns at slots.

        Shares are seconds of a quota, so they compare within one; a slow quota must not lose every free slot to a
        fast one.
        """
        if len(candidates) == 1:
            return candidates
        markets: list[tuple[set[str], list[_Candidate]]] = []
        for candidate in candidates:
            names, members = {g.name for g in self._metered(candidate.route)}, [candidate]
            apart = []
            for market in markets:
                if market[0] & names:
                    names |= market[0]
                    members = [*market[1], *members]
                else:
                    apart.append(market)
            markets = [*apart, (names, members)]
        return min((m for _, m in markets), key=lambda m: max(self._start(SLOTS, c.lane.model) for c in m))

    def _candidate(self, model: str) -> _Candidate | None:
        plain = self.topology.policy(model).is_plain
        while (first := self.openings.first(model)) is not None:
            ranked = self._smallest_share(model, first if plain else None)
            if ranked is None:
                return None
            share, lane = ranked
            line, head = self._next_of(lane)
            if plain and not head.avoid and not self._refusing(lane) and self._fits(first, head):
                return _Candidate(share, lane, line, head, self._home(lane, head, first))
            open_ones = self._open_to(lane, head)
            fitting = next((r for r in open_ones if self._fits(r, head)), None)
            if fitting is not None:
                return _Candidate(share, lane, line, head, self._home(lane, head, fitting))
            self._leave(lane, line, head, open_ones)
        return None

    def _refusing(self, lane: PriorityQueue) -> Mapping[str, Suspension]:
        """Quotas whose routes refuse whatever the lane's client sends."""
        found = self.refusing.get(lane.client)
        if found is None:
            found = self.refusing[lane.client] = self.snapshot.suspensions.refusing.get(lane.client, {})
        return found

    def _open_to(self, lane: PriorityQueue, head: QueueHead) -> list[Route]:
        """Open routes that this task may use and that do not refuse its client."""
        routes, refusing = self.openings.of(lane.model, head), self._refusing(lane)
        if not refusing:
            return routes
        able = [route for route in routes if not refusing.keys() & set(route.quotas)]
        if routes and not able:
            name = next(name for name in routes[0].quotas if name in refusing)
            self.refused[lane.model] = Wait(routes[0].key, NEVER, refusing[name])
        return able

    def _home(self, lane: PriorityQueue, head: QueueHead, chosen: Route) -> Route:
        """A route of the same tier, by the account that saw what the head begins with last, while it has room."""
        account = self.snapshot.affinity.get(head.prefix) if head.prefix else None
        if account is None or account == chosen.account:
            return chosen
        tier = next((one for one in self.topology.models[lane.model] if chosen in one), ())
        able = (r for r in self._open_to(lane, head) if r.key not in head.avoid and self._fits(r, head))
        return prefer_cached_account(chosen, account, tier, able)

    def _leave(self, lane: PriorityQueue, line: ClientQueue, head: QueueHead, open_ones: list[Route]) -> None:
        """The head cannot go now: it holds its turn where it waits for tokens, and else is passed over."""
        if open_ones:
            self._hold(open_ones, head)
            lane.held = True
        else:
            line.pass_over()

    def _smallest_share(self, model: str, route: Route | None) -> tuple[float, PriorityQueue] | None:
        """The lane furthest behind on this route; None: each on the route that its own head would take.

        Shares only grow while planning, so stale ranks sink lazily.
        """
        ranks = self.ranks.get((model, route))
        if ranks is None:
            lanes = self.lanes[model].values()
            ranks = [
                (self._share(self._route_of(lane, route), lane.client), lane.client, lane)
                for lane in lanes
                if lane.has_head()
            ]
            heapq.heapify(ranks)
            self.ranks[model, route] = ranks
        while ranks:
            share, client, lane = ranks[0]
            if not lane.has_head():
                heapq.heappop(ranks)
                continue
            current = self._share(self._route_of(lane, route), client)
            if current <= share:
                return share, lane
            heapq.heapreplace(ranks, (current, client, lane))
        return None

    def _route_of(self, lane: PriorityQueue, route: Route | None) -> Route | None:
        if route is not None:
            return route
        return next(iter(self._open_to(lane, self._next_of(lane)[1])), None)

    def _share(self, route: Route | None, client: str) -> float:
        if route is None:
            return 0.0  # nothing is open to its head: it comes to the front and is passed over
        served = self.base.served
        return max(self._start(g.name, client) - served.get(g.name, 0.0) for g in self._metered(route))

    def _metered(self, route: Route) -> tuple[QuotaLedger, ...]:
        """The quotas on which a route is shared out: those with limits, else the account's for the model."""
        gauges = self._gauges_of(route)
        return tuple(g for g in gauges if g.is_limited) or gauges[:1]

    def _next_of(self, lane: PriorityQueue) -> tuple[ClientQueue, QueueHead]:
        """The list whose turn it is among a client's priorities, and its head; the lane has one."""
        heads = list(lane.heads())
        if len(heads) == 1:
            return heads[0]
        resource = PRIORITY + lane.client
        return min(
            heads, key=lambda one: (self._start(resource, _step_flow(lane, one[0])), one[0].source.step)
        )

    # -- by which route

    def _gauges_of(self, route: Route) -> tuple[QuotaLedger, ...]:
        found = self.routes.get(route)
        if found is None:
            for name in route.quotas:
                if name not in self.gauges:
                    state = self.snapshot.quotas.get(name, QuotaState())
                    self.gauges[name] = QuotaLedger(name, state, self.snapshot.now)
            found = self.routes[route] = tuple(self.gauges[name] for name in route.quotas)
        return found

    def free(self, key: str) -> int:
        """Free worker slots for a key; none while it is paused or disabled."""
        if key in self.snapshot.suspensions.keys:
            return 0
        return self.slots.get(self.snapshot.pools.get(key, ""), 0)

    def _load(self, balance: Balance, route: Route) -> float:
        """What a tier that is not shared by weight is balanced by. A route not measured yet comes first."""
        if balance is Balance.FASTEST:
            return self.snapshot.speeds.get((route.key, route.upstream_model), 0.0)
        return self.flights.get(route.key, 0) / route.weight

    def _fits(self, route: Route, head: QueueHead) -> bool:
        return not any(g.lacks(head.estimate) for g in self._gauges_of(route))

    def _hold(self, routes: list[Route], head: QueueHead) -> None:
        """Let nothing else pass the quota that will have tokens for this head first."""
        waits = []
        for at, route in enumerate(routes):
            lacking = [g for g in self._gauges_of(route) if g.lacks(head.estimate)]
            slowest = max(lacking, key=lambda g: g.after().tokens_in(head.estimate))
            waits.append((slowest.after().tokens_in(head.estimate), at, slowest))
        min(waits)[2].held_for = head.estimate

    # -- carrying out, on paper

    def _release(self, chosen: _Candidate, market: list[str]) -> None:
        lane, route, head, source = chosen.lane, chosen.route, chosen.head, chosen.line.source
        charges = (*self._charges(chosen), *(Charge(SLOTS, model, 1.0) for model in market))
        for gauge in self._gauges_of(route):
            gauge.take(head.estimate)
        self.slots[self.snapshot.pools[route.key]] -= 1
        self.flights[route.key] = self.flights.get(route.key, 0) + 1
        chosen.line.take()
        for charge in charges:
            key = (charge.resource, charge.flow)
            self.times[key] = self._start(*key) + charge.cost
        self.releases.append(
            Release(
                head.task_id,
                source.queue,
                source.step,
                lane.model,
                lane.client,
                route,
                head.estimate,
                charges,
                chosen.line.passed,
                head.prefix,
            )
        )

    def _charges(self, chosen: _Candidate) -> tuple[Charge, ...]:
        client, step = chosen.lane.client, chosen.line.source.step
        weight = self.snapshot.clients.get(client, ClientShare()).weight_at(step)
        seconds = self.snapshot.call_seconds
        return (
            *(
                Charge(g.name, client, (g.cost(chosen.head.estimate, seconds) or 1.0) / weight)
                for g in self._metered(chosen.route)
            ),
            Charge(TURN + chosen.lane.model, chosen.route.key, 1 / chosen.route.weight),
            Charge(PRIORITY + client, _step_flow(chosen.lane, chosen.line), 1 / PRIORITY_WEIGHTS[step]),
        )

    def _start(self, resource: str, flow: str) -> float:
        found = self.times.get((resource, flow))
        return self.base.start(resource, flow) if found is None else found

    # -- what is waited for

    def _wait(self, model: str) -> Wait:
        """What opens last on the route that opens first, for the head that is next."""
        heads = [head for lane in self.lanes[model].values() for _, head in lane.heads()]
        if not heads:
            return self.refused.get(model, Wait("", NEVER))
        head = min(heads, key=lambda h: h.estimate)
        waits = [self._route_wait(route, head.estimate) for route in self.openings.may_serve(model, head)]
        return min(waits, key=lambda w: w.opens_in, default=Wait("route", NEVER))

    def _route_wait(self, route: Route, estimate: float) -> Wait:
        if (shut := self.snapshot.suspensions.keys.get(route.key)) is not None:
            return Wait(route.key, NEVER, shut)
        if self.free(route.key) <= 0:
            return Wait("slots", NEVER)
        opens = ((g.opens_in(estimate, self.snapshot.now), g.name, g) for g in self._gauges_of(route))
        seconds, name, gauge = max(opens, key=lambda one: one[:2])
        return Wait(name, seconds, state=gauge.after())


def _step_flow(lane: PriorityQueue, line: ClientQueue) -> str:
    return f"{lane.model}:{line.source.step}"
