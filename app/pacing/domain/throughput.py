"""Throughput and start times: measured, expected by shares and quotas, bounded by configured limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from app.pacing.domain.backlog import WaitingList
from app.pacing.domain.fairness import PRIORITY_WEIGHTS, ClientShare
from app.settings.domain.routing import WINDOW, QuotaState, Route, Topology

MEASURED_SECONDS = 30.0  # seconds over which a list's pace is measured
_SEEN = 5  # releases in it from which on it says more than what the limits let expect


@dataclass(slots=True)
class ReleaseRates:
    """Releases of each list in the last half minute. For one thread at a time."""

    _released: dict[tuple[str, int], deque[float]] = field(default_factory=dict)

    def released(self, queue: str, step: int, now: float) -> None:
        """One task left a list."""
        self._released.setdefault((queue, step), deque()).append(now)

    def rate(self, queue: str, step: int, now: float) -> float:
        """Releases a second; 0 for a list that stands still."""
        times = self._released.get((queue, step))
        if not times:
            return 0.0
        while times and now - times[0] > MEASURED_SECONDS:
            times.popleft()
        if not times:
            del self._released[queue, step]
            return 0.0
        return len(times) / max(1.0, now - times[0])

    def likely(self, queue: str, step: int, now: float, expected: float | None) -> float | None:
        """The pace that was seen; while there is little to see, the one that limits let expect. None: unknown."""
        seen = self.rate(queue, step, now)
        if expected is None or len(self._released.get((queue, step), ())) >= _SEEN:
            return seen or None
        return expected


@dataclass(slots=True)
class PerMinuteCounter:
    """Calls let through in the last 60 s, by quota."""

    _by_second: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)  # (second, calls)

    def released(self, quotas: Iterable[str], now: float) -> None:
        """One call passed these quotas."""
        second = int(now)
        for name in quotas:
            seconds = self._by_second.setdefault(name, deque())
            if seconds and seconds[-1][0] == second:
                seconds[-1] = (second, seconds[-1][1] + 1)
            else:
                seconds.append((second, 1))

    def counts(self, now: float) -> dict[str, int]:
        """How many passed each, where any did."""
        for name, seconds in list(self._by_second.items()):
            while seconds and seconds[0][0] <= now - 60:
                seconds.popleft()
            if not seconds:
                del self._by_second[name]
        return {name: sum(calls for _, calls in seconds) for name, seconds in self._by_second.items()}


List = tuple[str, int]  # queue and step
Speeds = Mapping[tuple[str, str], float]  # by key and upstream model: seconds a call

_NO_LIMIT = float("inf")


def expected_paces(
    waiting: Sequence[WaitingList],
    topology: Topology,
    quotas: Mapping[str, QuotaState],
    clients: Mapping[str, ClientShare],
    speeds: Speeds,
) -> dict[List, float]:
    """Releases a second of each list, where limits say something.

    What binds a route is shared by the models that wait, a model's pace by its clients' weights, a client's by its
    priorities' (16:4:1).
    """
    by_model: dict[str, list[WaitingList]] = {}
    for one in waiting:
        by_model.setdefault(one.model, []).append(one)
    binding = {model: _binding(model, lists, topology, quotas, speeds) for model, lists in by_model.items()}
    found: dict[List, float] = {}
    for model, lists in by_model.items():
        pace = sum(rate / _sharers(name, binding) for name, rate in binding[model].items())
        if 0 < pace < _NO_LIMIT:
            found |= {key: pace * part for key, part in _parts(lists, clients).items()}
    return found


def capacities(topology: Topology, quotas: Mapping[str, QuotaState], speeds: Speeds) -> dict[str, float]:
    """Releases a second of each model if nothing else ran, tokens aside; left out where nothing limits them."""
    found = {}
    for model in topology.models:
        pace = sum(_binding(model, (), topology, quotas, speeds).values())
        if 0 < pace < _NO_LIMIT:
            found[model] = pace
    return found


def _binding(
    model: str,
    lists: Sequence[WaitingList],
    topology: Topology,
    quotas: Mapping[str, QuotaState],
    speeds: Speeds,
) -> dict[str, float]:
    """The quota that binds each of a model's routes, with its calls a second; routes behind one count once."""
    heads = [head.estimate for one in lists for head in one.heads]
    tokens = max(1.0, sum(heads) / len(heads)) if heads else 1.0
    found: dict[str, float] = {}
    policy = topology.policy(model)
    for at, tier in enumerate(topology.models.get(model, ())):
        if policy.rule(at).backup:
            continue
        for route in tier:
            seconds = max(0.001, speeds.get((route.key, route.upstream_model), 1.0))
            rate, name = min(_rates(route, quotas, tokens, seconds))
            found[name] = max(found.get(name, 0.0), rate)
    return found


def _rates(
    route: Route, quotas: Mapping[str, QuotaState], tokens: float, seconds: float
) -> list[tuple[float, str]]:
    return [(rate_of(quotas.get(name, QuotaState()), tokens, seconds), name) for name in route.quotas]


def rate_of(state: QuotaState, tokens: float, seconds: float) -> float:
    """Calls a second that a quota lets through, each of so many tokens and seconds; infinite without a limit."""
    rates = [_NO_LIMIT]
    if state.requests is not None:
        rates.append(state.requests.rate)
    if state.tokens is not None:
        rates.append(state.tokens.rate / tokens)
    if state.cap is not None:
        rates.append(state.cap / seconds)
    return min(rates)


def _sharers(name: str, binding: Mapping[str, Mapping[str, float]]) -> int:
    return max(1, sum(name in names for names in binding.values()))


def _parts(lists: Sequence[WaitingList], clients: Mapping[str, ClientShare]) -> dict[List, float]:
    """Each list's part of its model's pace."""
    weights: dict[str, float] = {}
    steps: dict[str, float] = {}
    for one in lists:
        share = clients.get(one.client, ClientShare()).weight_at(one.step)
        weights[one.client] = max(weights.get(one.client, 0.0), share)
        steps[one.client] = steps.get(one.client, 0.0) + PRIORITY_WEIGHTS[one.step]
    total = sum(weights.values())
    return {
        (one.queue, one.step): weights[one.client] / total * PRIORITY_WEIGHTS[one.step] / steps[one.client]
        for one in lists
        if total > 0
    }


@dataclass(frozen=True, slots=True)
class Demand:
    """What a batch asks of one model: requests, and estimated tokens of prompts and answers together."""

    requests: int = 0
    tokens: int = 0

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.requests + other.requests, self.tokens + other.tokens)


def seconds_for(topology: Topology, demands: Mapping[str, Demand]) -> float | None:
    """How long it takes at least, if nothing else runs: the slowest model's first tier at its configured limits.

    Models are taken as if they shared no quota. None if a quota on the way is not configured.
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
    """What the routes can take a minute, all together; None when one of them has no configured limit.

    Keys of one account share it: each account counts once, by the narrowest of its quotas.
    """
    narrowest: dict[str, float] = {}
    for route in routes:
        configured = [
            getattr(topology.quotas[name], figure) for name in route.quotas if name in topology.quotas
        ]
        figures = [value for value in configured if value is not None]
        if not figures:
            return None
        narrowest[route.account] = min(figures)
    return sum(narrowest.values()) or None


MARGIN = 1.25  # times the configured limits
AT_ONCE = 120.0  # seconds' worth of it that may come at once


@dataclass(frozen=True, slots=True)
class ThroughputCeiling:
    """The most calls a model can ever make: `at_once`, then `rate` per second; `per_minute` as configured."""

    rate: float
    at_once: float
    per_minute: float


def ceiling_of(model: str, topology: Topology) -> ThroughputCeiling | None:
    """A model's configured ceiling; None if a route has no configured rate or a tier is not open to every task."""
    if not topology.policy(model).is_plain:
        return None
    rates: dict[str, float] = {}
    for tier in topology.models.get(model, ()):
        for route in tier:
            configured = [
                (quota.rpm, name)
                for name in route.quotas
                if (quota := topology.quotas.get(name)) is not None and quota.rpm is not None
            ]
            if not configured:
                return None
            rpm, name = min(configured)
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


_AT_LEAST = (
    1.0  # seconds: shorter waits count as this long, or nothing could be within a factor of two of them
)


@dataclass(frozen=True, slots=True)
class StartEstimate:
    """A task that started. Instants are Unix seconds; `estimated_at` is None where nobody knew."""

    created_at: float
    estimated_at: float | None
    started_at: float


@dataclass(frozen=True, slots=True)
class Quality:
    """`median_error_share` is of the real wait; `within_twice` the share estimated at half to twice their wait."""

    tasks: int
    unestimated: int
    median_error_seconds: float | None = None
    median_error_share: float | None = None
    within_twice: float | None = None


def quality(starts: Iterable[StartEstimate]) -> Quality:
    """Sum up."""
    all_of_them = list(starts)
    pairs = [
        (max(0.0, one.estimated_at - one.created_at), max(0.0, one.started_at - one.created_at))
        for one in all_of_them
        if one.estimated_at is not None
    ]
    unknown = len(all_of_them) - len(pairs)
    if not pairs:
        return Quality(len(all_of_them), unknown)
    ratios = [max(estimate, _AT_LEAST) / max(real, _AT_LEAST) for estimate, real in pairs]
    return Quality(
        tasks=len(all_of_them),
        unestimated=unknown,
        median_error_seconds=round(median(abs(estimate - real) for estimate, real in pairs), 3),
        median_error_share=round(
            median(abs(estimate - real) / max(real, _AT_LEAST) for estimate, real in pairs), 3
        ),
        within_twice=round(sum(0.5 <= ratio <= 2.0 for ratio in ratios) / len(ratios), 3),
    )
