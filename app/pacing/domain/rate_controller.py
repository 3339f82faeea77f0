"""Turns reported calls into the limits of all quotas: configured, estimated, braked, or closed by a breaker.

Configured limits are ceilings. Where none is configured for a route's calls, it is estimated for the quota of account
and upstream model; for other quotas only once a refusal names them. Each upstream and model has a breaker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.pacing.domain.brake import DEFAULT_RESTS, PAUSING, BrakeDurations, RefusalStreak
from app.pacing.domain.breaker import BreakerRules, BreakerState, CircuitBreaker
from app.pacing.domain.estimated_limit import EstimatorConfig, PaceRules, ResponsePace
from app.pacing.domain.limit_estimator import (
    RULES,
    CallSample,
    LimitEstimator,
    from_facts,
    new_estimator,
    to_facts,
)
from app.pacing.domain.plan import Release
from app.pacing.domain.ratelimit_headers import HeaderLimits, revealed
from app.pacing.domain.tokens import TokenBook, TokensUsed
from app.settings.domain.routing import (
    Bucket,
    ConfiguredQuota,
    QuotaLimits,
    QuotaState,
    Route,
    Topology,
    account_quota,
    request_bucket,
    token_bucket,
    upstream_quota,
)
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.refusals import Figure

Key = tuple[str, str]  # key and upstream model

_KINDS = {Outcome.SUCCEEDED: "success", Outcome.RATE_LIMITED: "refused", Outcome.OVERLOADED: "overloaded"}
_SLOW = frozenset(
    {Outcome.TIMED_OUT, Outcome.UNAVAILABLE, Outcome.OVERLOADED}
)  # what the adaptive pace slows for
_CLOSED, _FREE = QuotaLimits(cap=0), QuotaLimits()
_MOST = 2**31  # concurrent calls where there is no limit
DEFAULT_BREAKER = BreakerRules()


@dataclass(frozen=True, slots=True)
class CallReport:
    """A call's outcome, as workers report it. Instants are pacing time."""

    outcome: Outcome
    key: str
    upstream: str
    account: str
    upstream_model: str
    released_at: float
    at: float
    seconds: float
    estimate: float  # tokens that were reserved
    braked: tuple[str, ...] = ()  # quotas that it braked
    named: Figure | None = None  # the limit that a refusal names
    hints: Mapping[str, str] = field(default_factory=dict)  # rate-limit headers
    used: TokensUsed | None = None
    asked: float | None = None  # seconds that a refusal asks us to wait
    task: str = ""
    client: str = ""
    status: int | None = None
    words: str = ""  # the upstream's own, where they may speak of a key or an account

    @property
    def route(self) -> Route:
        """The route it took."""
        return Route(self.key, self.upstream, self.account, self.upstream_model)


@dataclass(frozen=True, slots=True)
class BrakeOrder:
    """An order to release nothing on a quota for a while."""

    quota: str
    seconds: float
    why: str


class RateController:
    """The leader's tick owns it. Pure: time arrives as arguments. Other threads may call `facts` alone."""

    def __init__(
        self,
        topology: Topology,
        *,
        breaker: BreakerRules | None = DEFAULT_BREAKER,
        pace: PaceRules | None = None,
        learning: Mapping[Figure, EstimatorConfig] | None = RULES,
        rests: BrakeDurations = DEFAULT_RESTS,
        chance: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`breaker`, `pace` and `learning` are off when None. `chance` draws from [0, 1)."""
        self.topology = topology
        self._ids = dict.fromkeys(topology.quota_ids)  # in their order
        self.breakers: dict[str, CircuitBreaker] = {}
        self.estimators: dict[str, LimitEstimator] = {}
        self.tokens = TokenBook()
        self.speeds: dict[Key, float] = {}  # moving mean of seconds a call
        self._rules = breaker
        self._pace = pace
        self._learning = learning
        self._rests = rests
        self._chance = chance
        self.streaks: dict[str, RefusalStreak] = {}
        self._paces: dict[str, ResponsePace] = {}
        self._revealed: dict[str, HeaderLimits] = {}
        self._breaker_of: dict[str, set[str]] = {}  # breakers by the account quotas behind them
        for route in topology.routes:
            self._lay(route)

    # -- reports

    def settled(self, reports: Iterable[CallReport]) -> list[BrakeOrder]:
        """Learn from calls that ended. Returns quotas to brake at once."""
        closings: list[BrakeOrder] = []
        for report in reports:
            self._measure(report)
            if report.used is not None:
                self.tokens.saw(report.used)
            closings += self._reveal(report)
            closings += self._break(report)
            closings += self._pause(report)
            for name in self._taught(report):
                if (estimator := self._estimator(name)) is not None:
                    estimator.settled(_lesson(report), report.at)
        return closings

    def released(self, releases: Iterable[Release], flights: Mapping[str, QuotaState], at: float) -> None:
        """Calls were released at `at`; `flights` are the quotas before that."""
        calls: dict[str, int] = {}
        tokens: dict[str, float] = {}
        for release in releases:
            for name in release.route.quotas:
                calls[name] = calls.get(name, 0) + 1
                tokens[name] = tokens.get(name, 0.0) + release.estimate
        for name, count in calls.items():
            before = flights[name].flight if name in flights else 0
            if name in self.estimators:
                self.estimators[name].released(at, count, tokens[name], before + count)
            if name in self.breakers:
                self.breakers[name].released(at, count)
            if name in self.streaks:
                self.streaks[name].released(at)

    def look(self, now: float, quotas: Mapping[str, QuotaState], waiting: Iterable[str]) -> None:
        """Update once a tick, with the present quotas and the models that have tasks waiting."""
        wanted = {
            name
            for model in waiting
            for tier in self.topology.models.get(model, ())
            for route in tier
            for name in route.quotas
        }
        for name, breaker in self.breakers.items():
            state = quotas.get(name)
            breaker.look(now, waiting=name in wanted, flight=None if state is None else state.flight)
        for streak in self.streaks.values():
            streak.look(now)
        for name, estimator in self.estimators.items():
            state = quotas.get(name)
            if state is not None:
                free = state.braked_until <= now and self._part(name, now) == 1.0 and not self._stands(name)
                estimator.look(now, state.flight, wanted=free and name in wanted)

    # -- limits

    def limits(self, now: float, quotas: Mapping[str, QuotaState]) -> dict[str, QuotaLimits]:
        """The limits that every quota should have now."""
        return {
            name: self._limits(name, now, quotas.get(name)) if self._says_something(name) else _FREE
            for name in self._ids
        }

    def _says_something(self, name: str) -> bool:
        """Quotas without limits: most keys' own, and those that are not configured."""
        said = (
            self.topology.quotas,
            self.breakers,
            self.estimators,
            self._revealed,
            self._paces,
            self._breaker_of,
        )
        return any(name in one for one in said)

    def _limits(self, name: str, now: float, state: QuotaState | None) -> QuotaLimits:
        breaker = self.breakers.get(name)
        if breaker is not None:
            room = breaker.room()
            return (
                QuotaLimits()
                if room is None
                else replace(_CLOSED, cap=room + (state.flight if state and room else 0))
            )
        limits = configured_limits(self.topology.quotas.get(name))
        estimator, said = self.estimators.get(name), self._revealed.get(name)
        if said is not None:
            limits = tighter(limits, configured_limits(ConfiguredQuota(name, said.pace, said.tpm)))
        if estimator is not None:
            limits = tighter(limits, QuotaLimits(estimator.requests, estimator.tokens, estimator.cap))
        if name in self._paces:
            pace = self._paces[name].level
            limits = tighter(limits, QuotaLimits(requests=Bucket(1.0, pace)))
        return _scaled(limits, self._part(name, now))

    def judged(self, now: float, quotas: Mapping[str, QuotaState]) -> dict[str, QuotaState]:
        """Quotas that are held by a judgement of ours, as planning is to see them, and what that is: see why.py.

        After a pause calls are let through one by one.
        """
        open_ = {name for name, one in self.breakers.items() if one.state is not BreakerState.CLOSED}
        found = {name: replace(quotas[name], judged="breaker") for name in open_ if name in quotas}
        for name in self._paces:
            requests = quotas[name].requests if name in quotas else None
            if requests is not None and requests.rate <= self._paces[name].level:
                found[name] = replace(quotas[name], judged="pace")
        return found | self._probed(now, quotas)

    def _probed(self, now: float, quotas: Mapping[str, QuotaState]) -> dict[str, QuotaState]:
        return {
            name: replace(
                state,
                cap=min(state.cap or _MOST, state.flight + self.streaks[name].room(now, state.flight)),
                judged="probe",
            )
            for name, state in quotas.items()
            if self._stands(name) and state.cap != 0
        }

    def _stands(self, name: str) -> bool:
        """Whether no call has succeeded on a quota since it began to refuse."""
        streak = self.streaks.get(name)
        return streak is not None and streak.stands

    def _part(self, name: str, now: float) -> float:
        """The part of an account's quota that may be used: less when its breaker has just closed."""
        return min((self.breakers[b].pace(now) for b in self._breaker_of.get(name, ())), default=1.0)

    # -- storing

    def facts(self) -> dict[str, dict[str, Any]]:
        """Estimates by quota, as plain values to store. Safe to call from another thread."""
        found = {name: to_facts(estimator) for name, estimator in list(self.estimators.items())}
        for name, streak in [(name, one) for name, one in list(self.streaks.items()) if one.is_kept]:
            found.setdefault(name, {})["pauses"] = streak.pauses
        return found | self.tokens.facts()

    def recall(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore stored estimates of quotas that still exist."""
        self.tokens.recall(facts)
        known = set(self.topology.quota_ids)
        for name, kept in facts.items():
            if name in known and kept.get("pauses"):
                self.streaks[name] = RefusalStreak(int(kept["pauses"]), is_kept=True)
            estimator = self._estimator(name) if name in known and "figures" in kept else None
            if estimator is not None:
                self.estimators[name] = from_facts(kept, estimator)

    def learned(self) -> dict[str, QuotaLimits]:
        """Limits estimated from calls, of quotas that have any. What is only assumed at the start is left out."""
        found = {
            name: QuotaLimits(
                one.requests if one.has_learned("pace") else None,
                one.tokens if one.has_learned("tokens") else None,
                one.cap if one.has_learned("calls") else None,
            )
            for name, one in list(self.estimators.items())
        }
        return {name: limits for name, limits in found.items() if limits != QuotaLimits()}

    def states(self) -> dict[str, BreakerState]:
        """The state of each breaker."""
        return {name: breaker.state for name, breaker in self.breakers.items()}

    def open_breakers(self, now: float) -> dict[str, tuple[BreakerState, str, float]]:
        """Breakers that are not closed: state, reason, and seconds until a call is let through."""
        return {
            name: (one.state, one.reason, max(0.0, one.opens_until(waiting=True) - now))
            for name, one in list(self.breakers.items())
            if one.state is not BreakerState.CLOSED
        }

    # -- parts

    def _lay(self, route: Route) -> None:
        account = account_quota(route.account, route.upstream_model)
        name = upstream_quota(route.upstream, route.upstream_model)
        if self._rules is not None:
            self.breakers.setdefault(name, CircuitBreaker(self._rules))
            self._breaker_of.setdefault(account, set()).add(name)
        if self._pace is not None and self._pace.concerns(route.upstream):
            self._paces.setdefault(account, ResponsePace(self._pace))
        configured = [quota for id_ in route.quotas if (quota := self.topology.quotas.get(id_)) is not None]
        if self._learning is not None and all(quota.learn for quota in configured):
            self.estimators.setdefault(
                account,
                new_estimator(_configured_figures(configured), rules=self._learning),
            )

    def _estimator(self, name: str) -> LimitEstimator | None:
        """The estimator of a quota; one that a refusal names first starts free. None where nothing is learned."""
        if self._learning is None:
            return None
        configured = self.topology.quotas.get(name)
        fresh = new_estimator(
            _configured_figures([configured] if configured else []), free=True, rules=self._learning
        )
        return self.estimators.setdefault(name, fresh)

    def _taught(self, report: CallReport) -> Iterator[str]:
        """Quotas whose estimates a call changes: those that a refusal brakes, else all of its estimated ones."""
        if report.outcome is Outcome.RATE_LIMITED:
            yield from (name for name in report.braked if name in self._ids)
        elif report.outcome in _KINDS:
            yield from (name for name in report.route.quotas if name in self.estimators)

    def _measure(self, report: CallReport) -> None:
        if report.outcome is Outcome.SUCCEEDED:
            key = (report.key, report.upstream_model)
            self.speeds[key] = self.speeds.get(key, report.seconds) * 0.9 + report.seconds * 0.1
        paced = self._paces.get(account_quota(report.account, report.upstream_model))
        if paced is not None and (report.outcome is Outcome.SUCCEEDED or report.outcome in _SLOW):
            paced.settled(report.seconds, failed=report.outcome in _SLOW)

    def _reveal(self, report: CallReport) -> Iterator[BrakeOrder]:
        said = revealed(report.hints, report.at)
        name = account_quota(report.account, report.upstream_model)
        if said.rpm is not None or said.tpm is not None:
            self._revealed[name] = said.after(self._revealed.get(name))
        if said.empty_for > 0:
            yield BrakeOrder(name, said.empty_for, "the upstream's headers say that nothing is left")

    def _pause(self, report: CallReport) -> Iterator[BrakeOrder]:
        """Growing pauses for quotas that only refuse; the first success ends them."""
        if report.outcome is Outcome.SUCCEEDED:
            for name in report.route.quotas:
                if name in self.streaks:
                    self.streaks[name].succeeded(report.released_at)
        for name in report.braked if report.outcome in PAUSING else ():
            if name in self._ids:
                yield from self._wall(name, report)

    def _wall(self, name: str, report: CallReport) -> Iterator[BrakeOrder]:
        streak = self.streaks.setdefault(name, RefusalStreak())
        if report.asked is not None:
            streak.refused_for(report.released_at, report.at, report.asked)
            return
        base, longest = self._rests.base(report.outcome), self._rests.longest
        seconds = streak.refused(report.released_at, report.at, base, longest, self._chance())
        if seconds is not None:
            yield BrakeOrder(
                name, seconds, f"{report.outcome}: {streak.pauses} refusals, no success between them"
            )

    def _break(self, report: CallReport) -> Iterator[BrakeOrder]:
        name = upstream_quota(report.upstream, report.upstream_model)
        breaker = self.breakers.get(name)
        if breaker is None:
            return
        before = breaker.state
        breaker.settled(report.outcome, report.released_at, report.at)
        if breaker.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            seconds = breaker.opens_until(waiting=True) - report.at
            yield BrakeOrder(name, seconds, f"breaker open: {breaker.reason}")


def _lesson(report: CallReport) -> CallSample:
    kind = _KINDS[report.outcome]
    return CallSample(kind, report.released_at, report.seconds, report.estimate, report.named)  # type: ignore[arg-type]


def _configured_figures(quotas: Sequence[ConfiguredQuota]) -> set[Figure]:
    """What is configured for the calls that use all of these quotas."""
    configured: dict[Figure, list[float | None]] = {
        "calls": [quota.concurrency for quota in quotas],
        "pace": [quota.rpm for quota in quotas],
        "tokens": [quota.tpm for quota in quotas],
    }
    return {name for name, values in configured.items() if any(value is not None for value in values)}


def configured_limits(quota: ConfiguredQuota | None) -> QuotaLimits:
    """Configured limits."""
    if quota is None:
        return QuotaLimits()
    return QuotaLimits(request_bucket(quota), token_bucket(quota), quota.concurrency)


def tighter(one: QuotaLimits, other: QuotaLimits) -> QuotaLimits:
    """The tighter of both."""
    caps = [limits.cap for limits in (one, other) if limits.cap is not None]
    return QuotaLimits(
        _slower(one.requests, other.requests), _slower(one.tokens, other.tokens), min(caps, default=None)
    )


def _slower(one: Bucket | None, other: Bucket | None) -> Bucket | None:
    if one is None or other is None:
        return one or other
    slower = one if one.rate <= other.rate else other
    return Bucket(min(one.size, other.size), slower.rate)


def _scaled(limits: QuotaLimits, part: float) -> QuotaLimits:
    if part >= 1.0:
        return limits
    return QuotaLimits(
        _part_of(limits.requests, part),
        _part_of(limits.tokens, part),
        None if limits.cap is None else max(1, int(limits.cap * part)),
    )


def _part_of(bucket: Bucket | None, part: float) -> Bucket | None:
    return None if bucket is None else Bucket(max(1.0, bucket.size * part), bucket.rate * part)
