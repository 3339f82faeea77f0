"""What to release now. Pure: a snapshot in, releases out; Redis checks every limit again when it releases.

1. For every model that has something waiting, take the first tier with an open route, and there the route that is
   next. A route is open while all its quotas have room for one more call and a worker has a free slot.
2. Of the clients waiting for that model, the one with the smallest share on that route's quotas is next; of several
   models, the one whose next client is furthest behind. Inside a client, priorities take turns at 16:4:1.
3. If no route has tokens enough for the head of its queue, the head holds its turn: nothing else passes the quota
   that will have them first. A head whose tiers are all closed to it is passed over instead.
4. Repeat until nothing can be released, or all heads that were read are used up.

What an operator paused is left out, and a key that is paused or disabled has no free slot. Routes that refuse
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
    """All input of planning, at one instant of pacing time."""

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
    """What a release costs: `cost` for `flow` on `resource`."""

    resource: str
    flow: str
    cost: float


@dataclass(frozen=True, slots=True)
class Release:
    """One task to be released to a key."""

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

    reason: str  # the key, where it is suspended
    opens_in: float  # seconds; infinite when only the end of a call can open it
    shut: Suspension | None = None  # paused or disabled
    state: QuotaState | None = field(
        default=None, compare=False
    )  # of the quota, after what this tick releases


@dataclass(frozen=True, slots=True)
class Plan:
    """What to release, and when to plan again."""

    releases: tuple[Release, ...]
    wake_in: float  # seconds; infinite when only a settlement or a submission can change anything
    more: bool  # all heads of some list were used up while there was room: there may be more to release
    waits: Mapping[str, Wait]  # by model
    used: int = 0  # heads released or passed over of the list that gave most


def plan(snapshot: Snapshot, topology: Topology, shares: Shares) -> Plan:
    """Decide what to release. Changes no argument; charge what was released with `settle_shares`."""
    return _Planner(snapshot, topology, shares).run()


def settle_shares(shares: Shares, releases: Iterable[Release]) -> None:
    """Charge what was released."""
    for release in releases:
        for charge in release.charges:
            shares.charge(charge.resource, charge.flow, charge.cost)


@dataclass(slots=True)
class _Candidate:
    """The task that is next for a model, and its route."""

    share: float
    client_queue: ClientQueue
    line: PriorityQueue
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
        self.ledgers: dict[str, QuotaLedger] = {}
        self.routes: dict[Route, tuple[QuotaLedger, ...]] = {}
        self.client_queues: dict[str, dict[str, ClientQueue]] = {}
        self.ranks: dict[tuple[str, Route | None], list[tuple[float, str, ClientQueue]]] = {}
        self.releases: list[Release] = []
        self.openings = RouteAvailability(
            topology,
            self._ledgers_of,
            self,
            self._start,
            self._load,
            snapshot.wall,
            snapshot.suspensions.keys,
        )
        self.refusing: dict[str, Mapping[str, Suspension]] = {}  # by client: quotas whose routes refuse it
        self.refused: dict[str, Wait] = {}  # by model: why heads were passed over
        self.paused: dict[str, Suspension] = {}  # by model, when all that waits for it is paused
        for waiting in snapshot.waiting:
            shut = snapshot.suspensions.pauses.holds(waiting.model, waiting.client)
            if shut is not None:
                self.paused[waiting.model] = shut
                continue
            client_queues = self.client_queues.setdefault(waiting.model, {})
            client_queue = client_queues.setdefault(
                waiting.client, ClientQueue(waiting.model, waiting.client)
            )
            client_queue.lines.append(PriorityQueue(waiting))

    def run(self) -> Plan:
        models = sorted(self.client_queues)
        while candidates := [c for model in models if (c := self._candidate(model)) is not None]:
            market = self._next_market(candidates)
            self._release(min(market, key=lambda c: c.share), [c.client_queue.model for c in market])
            models = [c.client_queue.model for c in candidates]
        waits = {model: Wait("", NEVER, shut) for model, shut in self.paused.items()}
        waits |= {model: self._wait(model) for model in self.client_queues}
        more = any(
            client_queue.dry() and self.openings.first(model) is not None
            for model, client_queues in self.client_queues.items()
            for client_queue in client_queues.values()
        )
        wake_in = min((w.opens_in for w in waits.values()), default=NEVER)
        lines = (
            line
            for client_queues in self.client_queues.values()
            for client_queue in client_queues.values()
            for line in client_queue.lines
        )
        return Plan(tuple(self.releases), wake_in, more, waits, max((line.at for line in lines), default=0))

    # -- the next task

    def _next_market(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """The candidates that are next: those that share a quota compete with each other; groups alternate by slots.

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
        return min(
            (m for _, m in markets), key=lambda m: max(self._start(SLOTS, c.client_queue.model) for c in m)
        )

    def _candidate(self, model: str) -> _Candidate | None:
        plain = self.topology.policy(model).is_plain
        while (first := self.openings.first(model)) is not None:
            ranked = self._smallest_share(model, first if plain else None)
            if ranked is None:
                return None
            share, client_queue = ranked
            line, head = self._next_of(client_queue)
            if plain and not head.avoid and not self._refusing(client_queue) and self._fits(first, head):
                return _Candidate(share, client_queue, line, head, self._home(client_queue, head, first))
            open_ones = self._open_to(client_queue, head)
            fitting = next((r for r in open_ones if self._fits(r, head)), None)
            if fitting is not None:
                return _Candidate(share, client_queue, line, head, self._home(client_queue, head, fitting))
            self._leave(client_queue, line, head, open_ones)
        return None

    def _refusing(self, client_queue: ClientQueue) -> Mapping[str, Suspension]:
        """Quotas whose routes refuse all requests of a client."""
        found = self.refusing.get(client_queue.client)
        if found is None:
            found = self.refusing[client_queue.client] = self.snapshot.suspensions.refusing.get(
                client_queue.client, {}
            )
        return found

    def _open_to(self, client_queue: ClientQueue, head: QueueHead) -> list[Route]:
        """Open routes that this task may use, without those that refuse its client."""
        routes, refusing = self.openings.of(client_queue.model, head), self._refusing(client_queue)
        if not refusing:
            return routes
        able = [route for route in routes if not refusing.keys() & set(route.quotas)]
        if routes and not able:
            name = next(name for name in routes[0].quotas if name in refusing)
            self.refused[client_queue.model] = Wait(routes[0].key, NEVER, refusing[name])
        return able

    def _home(self, client_queue: ClientQueue, head: QueueHead, chosen: Route) -> Route:
        """A route of the same tier whose account saw the head's prefix last, if it has room; else the chosen one."""
        account = self.snapshot.affinity.get(head.prefix) if head.prefix else None
        if account is None or account == chosen.account:
            return chosen
        tier = next((one for one in self.topology.models[client_queue.model] if chosen in one), ())
        able = (
            r for r in self._open_to(client_queue, head) if r.key not in head.avoid and self._fits(r, head)
        )
        return prefer_cached_account(chosen, account, tier, able)

    def _leave(
        self, client_queue: ClientQueue, line: PriorityQueue, head: QueueHead, open_ones: list[Route]
    ) -> None:
        """The head cannot be released: it holds its turn if it waits for tokens, else it is passed over."""
        if open_ones:
            self._hold(open_ones, head)
            client_queue.held = True
        else:
            line.pass_over()

    def _smallest_share(self, model: str, route: Route | None) -> tuple[float, ClientQueue] | None:
        """The client queue with the smallest share on this route; None: each on the route of its own head.

        Shares only grow while planning, so stale ranks sink lazily.
        """
        ranks = self.ranks.get((model, route))
        if ranks is None:
            client_queues = self.client_queues[model].values()
            ranks = [
                (
                    self._share(self._route_of(client_queue, route), client_queue.client),
                    client_queue.client,
                    client_queue,
                )
                for client_queue in client_queues
                if client_queue.has_head()
            ]
            heapq.heapify(ranks)
            self.ranks[model, route] = ranks
        while ranks:
            share, client, client_queue = ranks[0]
            if not client_queue.has_head():
                heapq.heappop(ranks)
                continue
            current = self._share(self._route_of(client_queue, route), client)
            if current <= share:
                return share, client_queue
            heapq.heapreplace(ranks, (current, client, client_queue))
        return None

    def _route_of(self, client_queue: ClientQueue, route: Route | None) -> Route | None:
        if route is not None:
            return route
        return next(iter(self._open_to(client_queue, self._next_of(client_queue)[1])), None)

    def _share(self, route: Route | None, client: str) -> float:
        if route is None:
            return 0.0  # no route is open to its head, which is passed over then
        served = self.base.served
        return max(self._start(g.name, client) - served.get(g.name, 0.0) for g in self._metered(route))

    def _metered(self, route: Route) -> tuple[QuotaLedger, ...]:
        """The quotas by which a route is shared among clients: those with limits, else the account's for the model."""
        ledgers = self._ledgers_of(route)
        return tuple(g for g in ledgers if g.is_limited) or ledgers[:1]

    def _next_of(self, client_queue: ClientQueue) -> tuple[PriorityQueue, QueueHead]:
        """The list that is next among a client's priorities, and its head. The client queue must have one."""
        heads = list(client_queue.heads())
        if len(heads) == 1:
            return heads[0]
        resource = PRIORITY + client_queue.client
        return min(
            heads,
            key=lambda one: (self._start(resource, _step_flow(client_queue, one[0])), one[0].source.step),
        )

    # -- routes

    def _ledgers_of(self, route: Route) -> tuple[QuotaLedger, ...]:
        found = self.routes.get(route)
        if found is None:
            for name in route.quotas:
                if name not in self.ledgers:
                    state = self.snapshot.quotas.get(name, QuotaState())
                    self.ledgers[name] = QuotaLedger(name, state, self.snapshot.now)
            found = self.routes[route] = tuple(self.ledgers[name] for name in route.quotas)
        return found

    def free(self, key: str) -> int:
        """Free worker slots for a key; none while it is paused or disabled."""
        if key in self.snapshot.suspensions.keys:
            return 0
        return self.slots.get(self.snapshot.pools.get(key, ""), 0)

    def _load(self, balance: Balance, route: Route) -> float:
        """The figure by which a tier without weights is balanced. Unmeasured routes come first."""
        if balance is Balance.FASTEST:
            return self.snapshot.speeds.get((route.key, route.upstream_model), 0.0)
        return self.flights.get(route.key, 0) / route.weight

    def _fits(self, route: Route, head: QueueHead) -> bool:
        return not any(g.lacks(head.estimate) for g in self._ledgers_of(route))

    def _hold(self, routes: list[Route], head: QueueHead) -> None:
        """Reserve the quota that will have tokens for this head first."""
        waits = []
        for at, route in enumerate(routes):
            lacking = [g for g in self._ledgers_of(route) if g.lacks(head.estimate)]
            slowest = max(lacking, key=lambda g: g.after().tokens_in(head.estimate))
            waits.append((slowest.after().tokens_in(head.estimate), at, slowest))
        min(waits)[2].held_for = head.estimate

    # -- planned releases

    def _release(self, chosen: _Candidate, market: list[str]) -> None:
        client_queue, route, head, source = chosen.client_queue, chosen.route, chosen.head, chosen.line.source
        charges = (*self._charges(chosen), *(Charge(SLOTS, model, 1.0) for model in market))
        for ledger in self._ledgers_of(route):
            ledger.take(head.estimate)
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
                client_queue.model,
                client_queue.client,
                route,
                head.estimate,
                charges,
                chosen.line.passed,
                head.prefix,
            )
        )

    def _charges(self, chosen: _Candidate) -> tuple[Charge, ...]:
        client, step = chosen.client_queue.client, chosen.line.source.step
        weight = self.snapshot.clients.get(client, ClientShare()).weight_at(step)
        seconds = self.snapshot.call_seconds
        return (
            *(
                Charge(g.name, client, (g.cost(chosen.head.estimate, seconds) or 1.0) / weight)
                for g in self._metered(chosen.route)
            ),
            Charge(TURN + chosen.client_queue.model, chosen.route.key, 1 / chosen.route.weight),
            Charge(
                PRIORITY + client, _step_flow(chosen.client_queue, chosen.line), 1 / PRIORITY_WEIGHTS[step]
            ),
        )

    def _start(self, resource: str, flow: str) -> float:
        found = self.times.get((resource, flow))
        return self.base.start(resource, flow) if found is None else found

    # -- waits

    def _wait(self, model: str) -> Wait:
        """The limit that opens last on the route that opens first, for the next head."""
        heads = [
            head for client_queue in self.client_queues[model].values() for _, head in client_queue.heads()
        ]
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
        opens = ((g.opens_in(estimate, self.snapshot.now), g.name, g) for g in self._ledgers_of(route))
        seconds, name, ledger = max(opens, key=lambda one: one[:2])
        return Wait(name, seconds, state=ledger.after())


def _step_flow(client_queue: ClientQueue, line: PriorityQueue) -> str:
    return f"{client_queue.model}:{line.source.step}"
