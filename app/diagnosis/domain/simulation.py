"""Simulates a load: the running service's own `plan` on a virtual clock, with calls that only take time.

1. Update: refill the quotas' buckets, complete the calls that have ended, drop tasks that have expired.
2. Plan, and release what the plan says; each call's duration is drawn from the durations on its route.
3. Continue at the next end or when something opens, whichever comes first. Ends that are close together (a tenth of a
   call's duration) are handled together, some early and some late, and single openings are collected as long as no
   bucket overflows: that keeps 50,000 tasks within seconds.

A large load is represented by a part of it, with the clock running faster: one task in ten, one second for ten.
Limits are the configured or learned ones of now; nothing is learned during a simulation.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from app.diagnosis.domain.percentiles import Percentiles, percentiles
from app.pacing.domain.backlog import QueueHead, WaitingList
from app.pacing.domain.fairness import ClientShare, Shares
from app.pacing.domain.plan import NEVER, Plan, Release, Snapshot, Wait, plan, settle_shares
from app.platform.domain.names import backlog_queue
from app.settings.domain.routing import QuotaLimits, QuotaState, Route, Topology, account_quota
from app.tasks.domain.attempt import TokenUsage

_HEADS = 256  # of each list, shown to one plan
_EXACT = 0.001  # seconds: nothing is looked at more often
_CLOSE = 0.1  # of a call's mean time: ends within it come back together
_EXPIRED, _DONE, _REFUSED = "expired", "done", "refused"
MOST_PLAYED = 5_000  # tasks; of more, a part is played
MOST_LISTS = 50  # of clients and priorities; the small ones beyond are played as one of their model
_GROWING = 0.05  # of the time of arrivals: so much later done, and waits grow with the load
_NO_TIMES = Percentiles(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks alike. They wait from the start, or arrive at random, on average `rate` a second (0: from the start)."""

    model: str
    client: str
    tasks: int
    usage: TokenUsage
    estimate: float  # tokens reserved for each
    step: int = 3
    expires_in: float = 86_400.0  # seconds
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """What calls by a route come to."""

    seconds: Callable[[Random], float]
    mean_seconds: float
    refused: float = 0.0  # the part that is refused (429, 503), and goes again
    pause: float = 1.0  # seconds that a refusal brakes its account and model


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What it came to. Seconds from the start."""

    seconds: float  # until the last call ended
    done: int
    expired: int = 0  # not started before their deadline
    stranded: int = 0  # that nothing could ever start
    calls: int = 0
    refused: int = 0  # calls, each made again
    costs: Mapping[str, int] = field(default_factory=dict)  # pico-units by currency
    unpriced: int = 0  # calls of unknown price
    by_key: Mapping[str, int] = field(default_factory=dict)  # calls
    waits: Mapping[str, float] = field(default_factory=dict)  # seconds by what held work up
    figures: Mapping[tuple[str, str], float] = field(
        default_factory=dict
    )  # the same by its figure: rpm, concurrency
    waited: Percentiles = _NO_TIMES  # seconds from arrival to start, of done tasks
    responded: Percentiles = _NO_TIMES  # seconds from arrival to answer
    played: int = 0  # tasks that stood for all
    last_start: float = 0.0  # when the last call started


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where it is played."""

    topology: Topology
    limits: Mapping[str, QuotaLimits]  # of quotas that have any
    habits: Callable[[Route], ClientProfile]
    cost: Callable[
        [Route, TokenUsage, float], tuple[int, str] | None
    ]  # pico-units and currency at an instant
    slots: int = 1000
    clients: Mapping[str, ClientShare] = field(default_factory=dict)
    starts_at: float = 0.0  # Unix seconds


def rehearse(
    stage: Scenario,
    loads: Sequence[Load],
    chance: Random,
    came: Callable[[float], object] = lambda _share: None,
    most: int = MOST_PLAYED,
) -> Rehearsed:
    """Simulate to the end, with a part of the load if it has more than `most` tasks. `came` receives the share done."""
    merged = merge_small(loads)
    tasks = sum(load.tasks for load in merged)
    if tasks <= most:
        return _Rehearsal(stage, merged, chance, came).run()
    faster = tasks / most
    part = [
        replace(each, tasks=math.ceil(each.tasks / faster), expires_in=each.expires_in / faster)
        for each in merged
    ]
    faster = tasks / sum(load.tasks for load in part)  # rounding up made it more
    begun = stage.starts_at

    def cost(route: Route, usage: TokenUsage, at: float) -> tuple[int, str] | None:
        return stage.cost(route, usage, begun + (at - begun) * faster)

    played = _Rehearsal(replace(stage, cost=cost), part, chance, came).run()
    return _grown(played, part, faster, tasks)


def merge_small(loads: Sequence[Load], most: int = MOST_LISTS) -> list[Load]:
    """The largest lists as they are, and the others as one for each model and priority: it drains the same."""
    ordered = sorted((load for load in loads if load.tasks), key=lambda load: -load.tasks)
    merged: dict[tuple[str, int, float, float], Load] = {}
    for load in ordered[most:]:
        name = (load.model, load.step, load.expires_in, load.rate)
        known = merged.get(name)
        if known is None:
            merged[name] = replace(load, client="others")
            continue
        tasks = known.tasks + load.tasks
        mean = (known.estimate * known.tasks + load.estimate * load.tasks) / tasks
        merged[name] = replace(known, tasks=tasks, estimate=mean)
    return [*ordered[:most], *merged.values()]


def _grown(played: Rehearsed, part: Sequence[Load], faster: float, tasks: int) -> Rehearsed:
    """What a part came to, for all of it. The last call takes as long as it does; what came before it, longer."""
    tail = played.seconds - played.last_start
    arriving = max((load.tasks / load.rate for load in part if load.rate), default=0.0)
    grows = faster if played.seconds - tail > (1 + _GROWING) * arriving else 1.0
    waited = Percentiles(*(seconds * grows for seconds in played.waited))
    calls = zip(played.responded, played.waited, waited, strict=True)
    expired, stranded = round(played.expired * faster), round(played.stranded * faster)
    return replace(
        played,
        seconds=tail + played.last_start * faster,
        done=tasks - expired - stranded,
        expired=expired,
        stranded=stranded,
        calls=round(played.calls * faster),
        refused=round(played.refused * faster),
        costs={currency: round(picos * faster) for currency, picos in played.costs.items()},
        unpriced=round(played.unpriced * faster),
        by_key={key: round(count * faster) for key, count in played.by_key.items()},
        waits={name: seconds * faster for name, seconds in played.waits.items()},
        figures={name: seconds * faster for name, seconds in played.figures.items()},
        waited=waited,
        responded=Percentiles(*(response - short + long for response, short, long in calls)),
    )


@dataclass(slots=True)
class _Line:
    """One list."""

    load: Load
    queue: str
    heads: tuple[QueueHead, ...]
    left: int = 0  # that wait
    to_come: int = 0
    comes_at: float = 0.0  # the next
    arrived: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many: those that wait
    in_flight: int = 0

    def arrive(self, now: float, chance: Random) -> None:
        """Let come what has come by now."""
        if self.to_come and not self.load.rate:
            self._add(0.0, self.to_come)
        while self.to_come and self.comes_at <= now:
            self._add(self.comes_at, 1)
            self.comes_at += chance.expovariate(self.load.rate)

    def _add(self, at: float, count: int) -> None:
        self.arrived.append((at, count))
        self.left += count
        self.to_come -= count

    def take(self) -> float:
        """The oldest that waits; when it came."""
        at, count = self.arrived.popleft()
        if count > 1:
            self.arrived.appendleft((at, count - 1))
        self.left -= 1
        return at

    def put_back(self, at: float) -> None:
        """One that was refused waits again."""
        self.arrived.appendleft((at, 1))
        self.left += 1

    def expire(self, now: float) -> int:
        """Drop what has waited too long; how many."""
        before = self.left
        while self.arrived and now - self.arrived[0][0] > self.load.expires_in:
            self.left -= self.arrived.popleft()[1]
        return before - self.left

    def waiting(self) -> WaitingList:
        load = self.load
        return WaitingList(self.queue, load.model, load.client, load.step, self.left, self.heads[: self.left])


@dataclass(slots=True)
class _Meter:
    """A quota that has limits."""

    limits: QuotaLimits
    level: float = 0.0
    token_level: float = 0.0
    flight: int = 0
    braked_until: float = 0.0

    def refill(self, seconds: float) -> None:
        if self.limits.requests is not None:
            self.level = self.limits.requests.filled(self.level, seconds)
        if self.limits.tokens is not None:
            self.token_level = self.limits.tokens.filled(self.token_level, seconds)

    def state(self) -> QuotaState:
        limits = self.limits
        return QuotaState(
            limits.requests,
            self.level,
            limits.tokens,
            self.token_level,
            limits.cap,
            self.flight,
            self.braked_until,
        )


class _Rehearsal:
    def __init__(
        self, stage: Scenario, loads: Sequence[Load], chance: Random, came: Callable[[float], object]
    ) -> None:
        self.stage = stage
        self.chance = chance
        self.came = came
        self.all = max(1, sum(load.tasks for load in loads))
        self.lines = [_line(load) for load in loads if load.tasks]
        self.by_place = {(line.queue, line.load.step): line for line in self.lines}
        self.meters = {name: _Meter(limits) for name, limits in stage.limits.items()}
        self.shares = Shares()
        self.habits = {route: stage.habits(route) for route in stage.topology.routes}
        self.ends: dict[int, list[tuple[Route, _Line, float, float]]] = {}  # by the number of a moment
        self.moments: list[int] = []
        self.moment = self._moment()
        self.now = 0.0
        self.flights: Counter[str] = Counter()
        self.free = stage.slots
        self.tally: Counter[str] = Counter()
        self.costs: Counter[str] = Counter()
        self.by_key: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.figures: Counter[tuple[str, str]] = Counter()
        self.last_start = 0.0
        self.waited, self.responded = array("d"), array("d")
        self.pools = dict.fromkeys(stage.topology.keys, "all")

    def run(self) -> Rehearsed:
        ended = 0.0
        self._arrive()
        while any(line.left or line.to_come for line in self.lines) or self.ends:
            decided = self._turn()
            if decided.more and decided.releases:
                continue
            following = self._following(decided)
            if following == NEVER:
                break
            for wait in decided.waits.values():
                self.waits[wait.reason] += following - self.now  # type: ignore[assignment]
                self.figures[wait.reason, _figure(wait, self.now)] += following - self.now  # type: ignore[assignment]
            self._go(following)
            self.came((self.tally[_DONE] + self.tally[_EXPIRED]) / self.all)
            if self._bring_back():
                ended = self.now
        return self._result(ended)

    # -- one turn

    def _turn(self) -> Plan:
        waiting = tuple(line.waiting() for line in self.lines if line.left)
        states = {name: meter.state() for name, meter in self.meters.items()}
        snapshot = Snapshot(
            self.now,
            waiting,
            states,
            self.pools,
            {"all": self.free},
            self.stage.clients,
            flights=self.flights,
            wall=self.stage.starts_at + self.now,
        )
        decided = plan(snapshot, self.stage.topology, self.shares)
        for release in decided.releases:
            self._release(release)
        settle_shares(self.shares, decided.releases)
        return decided

    def _release(self, release: Release) -> None:
        line, route = self.by_place[release.queue, release.step], release.route
        came_at = line.take()
        self.last_start = self.now
        line.in_flight += 1
        self.free -= 1
        self.flights[route.key] += 1
        for name in route.quotas:
            if (meter := self.meters.get(name)) is not None:
                meter.level -= 1
                meter.token_level -= release.estimate
                meter.flight += 1
        # The nearest moment, early as often as late; but one that is still to come.
        end = (self.now + self.habits[route].seconds(self.chance)) / self.moment
        moment = max(round(end), int(self.now / self.moment + 1e-9) + 1)
        if moment not in self.ends:
            heapq.heappush(self.moments, moment)
            self.ends[moment] = []
        self.ends[moment].append((route, line, came_at, self.now))

    def _following(self, decided: Plan) -> float:
        end = self.moments[0] * self.moment if self.moments else NEVER
        waits = any(line.left for line in self.lines)
        opens = self.now + max(_EXACT, decided.wake_in) if waits else NEVER
        soonest = self.now + self._lag()
        comes = min((line.comes_at for line in self.lines if line.to_come), default=NEVER)
        if comes != NEVER:
            comes = max(comes, soonest)
        return min(end, comes, max(opens, soonest) if opens != NEVER else NEVER)

    def _lag(self) -> float:
        """How long may be waited with what opens one by one before some bucket overflows."""
        spare = (
            (bucket.size - max(1.0, meter.level)) / bucket.rate
            for meter in self.meters.values()
            if (bucket := meter.limits.requests) is not None and meter.braked_until <= self.now
        )
        return max(_EXACT, min(self.moment, min(spare, default=self.moment)))

    def _go(self, instant: float) -> None:
        passed = instant - self.now
        for meter in self.meters.values():
            meter.refill(passed)
        self.now = instant
        self._arrive()
        for line in self.lines:
            self.tally[_EXPIRED] += line.expire(instant)

    def _arrive(self) -> None:
        for line in self.lines:
            line.arrive(self.now, self.chance)

    def _bring_back(self) -> bool:
        """Calls that have ended by now. Gives back whether there were any."""
        any_ended = False
        while self.moments and self.moments[0] * self.moment <= self.now + 1e-9:
            for ended in self.ends.pop(heapq.heappop(self.moments)):
                self._ended(*ended)
            any_ended = True
        return any_ended

    def _ended(self, route: Route, line: _Line, came_at: float, started_at: float) -> None:
        habit, load = self.habits[route], line.load
        line.in_flight -= 1
        self.free += 1
        self.flights[route.key] -= 1
        self.by_key[route.key] += 1
        refused = habit.refused > 0 and self.chance.random() < habit.refused
        used = 0.0 if refused else float(load.usage.prompt_tokens + load.usage.completion_tokens)
        for name in route.quotas:
            if (meter := self.meters.get(name)) is not None:
                meter.flight -= 1
                meter.token_level += load.estimate - used
        if refused:
            self.tally[_REFUSED] += 1
            line.put_back(came_at)
            name = account_quota(route.account, route.upstream_model)
            meter = self.meters.setdefault(name, _Meter(QuotaLimits()))
            meter.braked_until = max(meter.braked_until, self.now + habit.pause)
            return
        self.tally[_DONE] += 1
        self.waited.append(max(0.0, started_at - came_at))
        self.responded.append(max(0.0, self.now - came_at))
        cost = self.stage.cost(route, load.usage, self.stage.starts_at + self.now)
        self.costs["" if cost is None else cost[1]] += 1 if cost is None else cost[0]

    # -- at its edges

    def _moment(self) -> float:
        means = [habit.mean_seconds for habit in self.habits.values() if habit.mean_seconds > 0]
        return max(_EXACT, _CLOSE * min(means, default=1.0))

    def _result(self, ended: float) -> Rehearsed:
        stranded = sum(line.left + line.to_come for line in self.lines)
        unpriced = self.costs.pop("", 0)
        return Rehearsed(
            ended,
            self.tally[_DONE],
            self.tally[_EXPIRED],
            stranded,
            self.by_key.total(),
            self.tally[_REFUSED],
            dict(self.costs),
            unpriced,
            dict(self.by_key),
            dict(self.waits),
            dict(self.figures),
            percentiles(self.waited),
            percentiles(self.responded),
            self.all,
            min(ended, self.last_start),
        )


def _figure(wait: Wait, now: float) -> str:
    """The figure of a quota that lets nothing through: rpm, tpm or concurrency; empty where it is none of them."""
    state = wait.state
    if state is None:
        return ""
    if state.cap is not None and state.flight >= state.cap:
        return "concurrency"
    if state.braked_until > now:
        return "pause after a refusal"
    if state.requests is not None and state.level < 1:
        return "rpm"
    return "tpm" if state.tokens is not None else ""


def _line(load: Load) -> _Line:
    heads = tuple(QueueHead(str(number), load.estimate) for number in range(min(_HEADS, load.tasks)))
    return _Line(load, backlog_queue(load.model, load.client), heads, to_come=load.tasks)


# -- what would change


def with_key(
    topology: Topology, limits: Mapping[str, QuotaLimits], key: str
) -> tuple[Topology, dict[str, QuotaLimits]]:
    """One more key of the same account as `key`, with limits of its own like that one's."""
    return _with(topology, limits, key, account=None)


def with_account(
    topology: Topology, limits: Mapping[str, QuotaLimits], key: str
) -> tuple[Topology, dict[str, QuotaLimits]]:
    """One more account like that of `key`, with one key."""
    account = next(route.account for route in topology.routes if route.key == key)
    return _with(topology, limits, key, account=_another(account, {r.account for r in topology.routes}))


def _with(
    topology: Topology, limits: Mapping[str, QuotaLimits], key: str, account: str | None
) -> tuple[Topology, dict[str, QuotaLimits]]:
    name = _another(key, set(topology.keys))
    more = dict(limits)

    def copied(route: Route) -> Route:
        new = replace(route, key=name, account=account or route.account)
        for old_quota, new_quota in zip(route.quotas, new.quotas, strict=True):
            if old_quota in limits:
                more[new_quota] = limits[old_quota]
        return new

    models = {
        model: tuple((*tier, *(copied(route) for route in tier if route.key == key)) for tier in tiers)
        for model, tiers in topology.models.items()
    }
    return replace(topology, models=models), more


def _another(name: str, known: set[str]) -> str:
    number = 2
    while f"{name}+{number}" in known:
        number += 1
    return f"{name}+{number}"
