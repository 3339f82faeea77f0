"""Which routes can take a task now: quotas, worker slots, and the account whose prompt cache knows its prefix."""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.pacing.domain.backlog import QueueHead
from app.pacing.domain.tokens import text_tokens
from app.settings.domain.routing import Balance, QuotaState, Route, Topology
from app.tasks.domain.eligibility import may_use, upstream_note

NEVER = float("inf")
_ROUNDING = 1e-6  # rounding of levels stored as decimals


class QuotaLedger:
    """A quota while planning: releases are deducted here, and its first state is kept."""

    __slots__ = ("braked", "held_for", "level", "name", "room", "state", "tokens")

    def __init__(self, name: str, state: QuotaState, now: float) -> None:
        self.name = name
        self.state = state
        self.braked = state.braked_until > now
        self.held_for: float | None = None  # tokens of the head that reserved it
        self.level = state.level if state.requests else NEVER
        self.tokens = state.token_level if state.tokens else NEVER
        self.room = NEVER if state.cap is None else state.cap - state.flight

    @property
    def is_limited(self) -> bool:
        """Whether it has a limit."""
        return bool(self.state.requests or self.state.tokens or self.state.cap is not None)

    def is_open(self) -> bool:
        """Whether one more call passes, tokens aside."""
        return not self.braked and self.held_for is None and self.room >= 1 and self.level >= 1 - _ROUNDING

    def lacks(self, estimate: float) -> bool:
        """Whether it has too few tokens; a full bucket lets any prompt pass."""
        tokens = self.state.tokens
        return tokens is not None and self.tokens < min(estimate, tokens.size) - _ROUNDING

    def take(self, estimate: float) -> None:
        """Deduct a call."""
        self.level -= 1
        self.tokens -= estimate
        self.room -= 1

    def after(self) -> QuotaState:
        """The quota after what was deducted."""
        s = self.state
        taken = 0 if s.cap is None else int(s.cap - s.flight - self.room)
        return QuotaState(
            s.requests,
            self.level,
            s.tokens,
            self.tokens,
            s.cap,
            s.flight + taken,
            s.braked_until,
            s.reason,
            s.judged,
        )

    def opens_in(self, estimate: float, now: float) -> float:
        """Seconds until a call would pass, after the head that reserved it."""
        if not (self.is_limited or self.braked):
            return 0.0
        after = self.after()
        return max(after.opens_in(estimate, now), after.tokens_in(self.held_for or 0.0))

    def cost(self, estimate: float, call_seconds: float) -> float:
        """Seconds of this quota that a call takes: of whichever resource it takes most of; 0 without limits."""
        s = self.state
        return max(
            1 / s.requests.rate if s.requests and s.requests.rate else 0.0,
            estimate / s.tokens.rate if s.tokens and s.tokens.rate else 0.0,
            call_seconds / s.cap if s.cap else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Consumer:
    """A live worker process: the keys whose queues it consumes, and its slots."""

    keys: tuple[str, ...]
    slots: int


def allocate_slots(
    consumers: Iterable[Consumer], flights: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, int]]:
    """The pool of each key, and the free slots of each pool.

    Keys that are reachable from each other through workers share a pool, named by one of its keys: a worker that
    consumes several queues has its slots only once. Permits that are out (`flights`, by key) take slots.
    """
    pools: dict[str, str] = {}

    def root(key: str) -> str:
        while pools[key] != key:
            key = pools[key]
        return key

    consumers = [c for c in consumers if c.keys]
    for consumer in consumers:
        for key in consumer.keys:
            pools.setdefault(key, key)
            pools[root(key)] = root(consumer.keys[0])
    of_key = {key: root(key) for key in pools}
    free = dict.fromkeys(of_key.values(), 0)
    for consumer in consumers:
        free[of_key[consumer.keys[0]]] += consumer.slots
    for key, pool in of_key.items():
        free[pool] -= flights.get(key, 0)
    return of_key, {pool: max(0, slots) for pool, slots in free.items()}


LEAST_TOKENS = 64.0  # of a prefix: upstreams cache whole blocks, and a shorter one fills none
_REMEMBERED = 10_000


def prefix_of(client_id: str, model: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """A hash of the system prompt of a client's task for a model; None if it has none or a short one."""
    first = messages[0] if messages else {}
    content = first.get("content")
    if first.get("role") not in ("system", "developer") or not isinstance(content, str):
        return None
    if text_tokens(content) < LEAST_TOKENS:
        return None
    text = f"{client_id}\n{model}\n{content}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class PrefixAffinity:
    """The account that saw each prefix last; least recently used ones are forgotten."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._accounts: OrderedDict[str, str] = OrderedDict()

    def get(self, prefix: str) -> str | None:
        """The account, if one has seen it."""
        return self._accounts.get(prefix)

    def saw(self, prefix: str, account: str) -> None:
        """An account gets a task with this prefix."""
        self._accounts[prefix] = account
        self._accounts.move_to_end(prefix)
        if len(self._accounts) > self._most:
            self._accounts.popitem(last=False)


def prefer_cached_account(
    chosen: Route, account: str | None, tier: Iterable[Route], able: Iterable[Route]
) -> Route:
    """A route of that account in the chosen one's tier, if one is able; else the chosen one."""
    if account is None or chosen.account == account:
        return chosen
    rank = set(tier)
    return next((route for route in able if route.account == account and route in rank), chosen)


def is_down(route: Route, quotas: Mapping[str, QuotaState], suspended: Container[str]) -> bool:
    """Whether a route cannot serve until its upstream recovers: its key is suspended, or a breaker on it is open."""
    states = (quotas.get(name) for name in route.quotas)
    return route.key in suspended or any(state is not None and state.cap == 0 for state in states)


def _refuses(gauge: QuotaLedger) -> bool:
    """Whether its upstream has refused or failed so that it is left alone, or tried one call at a time."""
    return gauge.braked or gauge.state.cap == 0 or gauge.state.judged in ("breaker", "probe")


def down_models(
    topology: Topology, quotas: Mapping[str, QuotaState], suspended: Container[str]
) -> tuple[str, ...]:
    """The models of which every route is down, aside from tiers that serve only what failed elsewhere."""
    found = []
    for model, tiers in topology.models.items():
        policy = topology.policy(model)
        routes = [route for at, tier in enumerate(tiers) if not policy.rule(at).serves for route in tier]
        if routes and all(is_down(route, quotas, suspended) for route in routes):
            found.append(model)
    return tuple(found)


def keyless_models(topology: Topology, refused: Container[str]) -> tuple[str, ...]:
    """The models of which each key is refused, or its account unpaid. `refused`: `key:...`, `account:...`."""
    return tuple(
        model
        for model, tiers in topology.models.items()
        if (routes := [route for tier in tiers for route in tier])
        and all(f"key:{r.key}" in refused or f"account:{r.account}" in refused for r in routes)
    )


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
        suspended: Container[str] = (),
    ) -> None:
        """`start` gives a flow's virtual time, `load` what a tier is balanced by; `wall` is Unix seconds.

        `suspended`: keys that are disabled or paused.
        """
        self._suspended = suspended
        self._backups: dict[tuple[str, int], bool] = {}
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
        """The next route of the first tier with an open one."""
        for index in range(len(self._topology.models.get(model, ()))):
            if self._serves(model, index) and (route := self._next(model, index)) is not None:
                return route
        return None

    def of(self, model: str, head: QueueHead) -> list[Route]:
        """Open routes that this task may use, the preferred one first.

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
        if not self._serves(model, index, head.avoid):
            return False
        if rule.is_plain and not head.avoid:
            return True
        return may_use(rule, head.facts, head.avoid, self._wall)

    def _serves(self, model: str, index: int, avoid: Container[str] = ()) -> bool:
        """Whether a tier serves now: a backup does while every route of the tiers before is down, or has failed the
        task that avoids it.
        """
        policy = self._topology.policy(model)
        if not policy.rule(index).backup:
            return True
        if avoid:
            return all(self._is_away(route, avoid) for route in self._before(model, index))
        found = self._backups.get((model, index))
        if found is None:
            found = all(self._is_away(route) for route in self._before(model, index))
            self._backups[model, index] = found
        return found

    def _before(self, model: str, index: int) -> Iterator[Route]:
        """The routes of the tiers before, without those for failures elsewhere."""
        policy = self._topology.policy(model)
        for at, tier in enumerate(self._topology.models[model][:index]):
            if not policy.rule(at).serves:
                yield from tier

    def _is_away(self, route: Route, avoid: Container[str] = ()) -> bool:
        if route.key in self._suspended or route.key in avoid or upstream_note(route.upstream) in avoid:
            return True
        return any(map(_refuses, self._gauges_of(route)))

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
