"""Estimates the limits of one quota: concurrent calls, calls per second and, once they are refused, tokens per second.

1. `look`: what is in flight, and whether more is wanted. At the end of a round, what held the backlog back may grow.
2. `released`: what was let through.
3. `settled`: a success proves what the upstream takes; a refusal cuts the figure it is about, once for all calls of
   a round.
4. What is configured is lowered only by many refusals among many calls, and counts again in full once none has come
   for a few seconds, unless the lowered figure is what holds many calls back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from app.pacing.domain import estimated_limit
from app.pacing.domain.estimated_limit import (
    CALLS_A_SECOND,
    CALLS_AT_ONCE,
    FREE,
    PAUSE,
    TOKENS_A_SECOND,
    EstimatedLimit,
    EstimatorConfig,
    Traffic,
)
from app.settings.domain.routing import Bucket
from app.upstreams.domain.refusals import USED, Figure, LimitUsage, attribute_refusal

SHORTEST_ROUND, LONGEST_ROUND = 0.2, 1.0  # seconds; a round lasts as long as a call, within these
SAME_REFUSAL = 0.5  # seconds after a cut during which refusals still concern what was cut
PEAK_SECONDS = 10.0  # seconds for which a success proves how many concurrent calls are accepted
QUIET = 1.5  # seconds after the last release by which a refusal of it would have come
FEW = 8  # calls; too few to measure a rate
_IN_FULL = EstimatedLimit(FREE)
_BURST = 0.1  # seconds' worth that may be released at once
_LATE = 0.05  # seconds by which the dispatcher may be late without losing rate: noticeable where calls go one by one
# Seconds for which a call is counted here while it is not upstream: in transit, and until its permit is released. Of
# short calls that is a good part of all that are counted.
_TRANSIT, _MOST_AWAY = 0.08, 0.5
# A configured limit is doubted after so many refusals, less a share for each success; so many seconds without end it.
_DOUBTED, _REASSURED, _FORGOTTEN = 3.0, 1 / 20, 10.0
RETURN = 6.0  # seconds without a refusal after which the configured limit counts again

RULES: Mapping[Figure, EstimatorConfig] = {
    "calls": CALLS_AT_ONCE,
    "pace": CALLS_A_SECOND,
    "tokens": TOKENS_A_SECOND,
}


@dataclass(frozen=True, slots=True)
class CallSample:
    """A call's outcome, as far as it says something of limits. `refused` is a 429, `overloaded` a 503."""

    kind: Literal["success", "refused", "overloaded"]
    released_at: float
    seconds: float = 0.0  # that it took
    tokens: float = 0.0  # that were reserved for it
    named: Figure | None = None  # the limit that a refusal names


@dataclass(slots=True)
class _Round:
    """What was measured since `began`."""

    began: float
    most: int = 0  # calls at once
    calls: float = 0.0
    tokens: float = 0.0
    successes: int = 0
    wanted: bool = False
    refused: bool = False


@dataclass(slots=True)
class _Doubt:
    """Whether the share of refusals shows that a configured limit is wrong."""

    at: float = -1e18  # of the last refusal
    refusals: int = 0
    score: float = 0.0

    def refused(self, now: float) -> None:
        if now - self.at > _FORGOTTEN:
            self.refusals, self.score = 0, 0.0
        self.at, self.refusals, self.score = now, self.refusals + 1, self.score + 1

    def taken(self) -> None:
        self.score = max(0.0, self.score - _REASSURED)


@dataclass(slots=True)
class LimitEstimator:
    """One quota. All instants are pacing time."""

    figures: dict[Figure, EstimatedLimit]
    traffic: Traffic = field(default_factory=Traffic)
    latency: float = 0.5  # seconds, moving mean
    rules: Mapping[Figure, EstimatorConfig] = field(default_factory=lambda: RULES)
    configured: frozenset[Figure] = frozenset()  # estimated only in case the configured limit is wrong
    _now: _Round | None = None
    _before: _Round | None = None
    _released_at: float | None = None
    _peak: tuple[float, int, int] = (0.0, 0, 0)  # since; most calls at once, now and in the span before
    # The last cut, what it was about, and how far it may go.
    _cut_at: float = -1e18
    _affected: tuple[Figure, ...] = ()
    _least: float = 0.0
    _empty_at: float = -1e18  # when an upstream's bucket was last seen empty
    _cut_again: bool = True  # a call released since the last cut succeeded, or more is allowed since
    _beyond: float = 0.0  # calls taken beyond the known pace since it was found
    _doubt: _Doubt = field(default_factory=_Doubt)

    # -- what is allowed

    @property
    def cap(self) -> int | None:
        """Calls at once; None for no limit."""
        level = self.figures["calls"].level
        return None if level == FREE else int(level + 1e-9)

    @property
    def requests(self) -> Bucket | None:
        """The bucket of calls; None for no limit."""
        level = self.figures["pace"].level
        return None if level == FREE else Bucket(max(1.0 + level * _LATE, level * _BURST), level)

    @property
    def tokens(self) -> Bucket | None:
        """The bucket of tokens; None for no limit."""
        level = self.figures["tokens"].level
        return None if level == FREE else Bucket(level, level)

    def has_learned(self, name: Figure) -> bool:
        """Whether calls have moved this figure from where every estimate starts."""
        figure = self.figures[name]
        return figure.known is not None or figure.level != self.rules[name].start

    # -- what is seen

    def look(self, now: float, flight: int, *, wanted: bool) -> None:
        """Update once a tick. `wanted`: tasks wait that may use this quota."""
        if self._now is None:
            self._now = _Round(now)
        seen = self._now
        seen.most = max(seen.most, flight)
        seen.wanted = seen.wanted or wanted
        ended = now - seen.began >= self._round_length()
        self._restore(seen, now, ended=ended)
        if ended:
            if seen.wanted and not seen.refused and (seen.successes or self._is_taken(seen, now)):
                self._grow(seen, now)
            self._disprove(seen, now)
            self._before, self._now = seen, _Round(now, most=flight)

    def released(self, at: float, calls: int, tokens: float, flight: int) -> None:
        """Calls were released, which made `flight` concurrent calls."""
        if self._released_at is not None and at - self._released_at > PAUSE:
            for name, rules in self.rules.items():
                figure = self.figures[name]
                self.figures[name] = (
                    _IN_FULL if name in self.configured else estimated_limit.restarted(figure, rules)
                )
        self._released_at = at
        self.traffic.add(at, calls, tokens, flight)
        if self._now is None:
            self._now = _Round(at)
        self._now.calls += calls
        self._now.tokens += tokens
        self._now.most = max(self._now.most, flight)

    def settled(self, sample: CallSample, now: float) -> None:
        """A call ended."""
        if sample.kind == "success":
            self._succeeded(sample, now)
            return
        self._doubt.refused(now)
        if self._now is not None:
            self._now.refused = True
        if sample.kind == "refused":
            self._refused(sample, now)
        else:
            self._overloaded(sample, now)

    # -- growing

    def _round_length(self) -> float:
        """As long as a call, within bounds, and two calls at least; a second once a limit is known."""
        known = any(figure.known is not None for figure in self.figures.values())
        length = LONGEST_ROUND if known else min(LONGEST_ROUND, max(SHORTEST_ROUND, self.latency))
        return max(length, 2 / self.figures["pace"].level)

    def _is_taken(self, seen: _Round, now: float) -> bool:
        """Whether long calls fill the level and none was refused: a refusal would have come by now."""
        full = seen.most >= self.figures["calls"].level and self._released_at is not None
        return full and now - (self._released_at or now) >= QUIET

    def _grow(self, seen: _Round, now: float) -> None:
        """Raise what held the backlog back; of those that would exceed a known limit, only the first.

        With one figure tried at a time, a refusal shows which one it is about.
        """
        bound = [name for name in RULES if self._bound(name, seen, now)]
        bound.sort(key=lambda name: (not self._probes(name), self.figures[name].rest_until))
        trying = False
        for name in bound:
            after = estimated_limit.grown(self.figures[name], self.rules[name], now)
            tries = estimated_limit.is_probing(after, self.rules[name])
            if not (tries and trying):
                self._cut_again = self._cut_again or after.level > self.figures[name].level
                self.figures[name] = after
            trying = trying or tries

    def _bound(self, name: Figure, seen: _Round, until: float) -> bool:
        """Whether a figure held the backlog back in a round."""
        level = self.figures[name].level
        if level == FREE:
            return False
        if name == "calls":
            return seen.most >= int(level)
        used = seen.calls if name == "pace" else seen.tokens
        return used >= USED * level * (until - seen.began)

    def _probes(self, name: Figure) -> bool:
        return estimated_limit.is_probing(self.figures[name], self.rules[name])

    def _restore(self, seen: _Round, now: float, *, ended: bool) -> None:
        """Restore configured limits, except a lowered one that many calls use up."""
        if now - self._doubt.at < RETURN:
            return
        lowered = [name for name in self.configured if not self.figures[name].is_free]
        few = bool(lowered) and max(seen.most, self.traffic.between(now - RETURN, now)[0]) < FEW
        for name in lowered:
            if few or (ended and not self._bound(name, seen, now)):
                self.figures[name] = _IN_FULL

    # -- succeeding

    def _succeeded(self, sample: CallSample, now: float) -> None:
        self.latency += (sample.seconds - self.latency) * 0.1
        self._doubt.taken()
        self._cut_again = self._cut_again or sample.released_at > self._cut_at
        if self._now is not None:
            self._now.successes += 1
        since, most, before = self._peak
        if now - since > PEAK_SECONDS:
            since, most, before = now, 0, most
        self._peak = (since, max(most, self.traffic.flight(sample.released_at)), before)

    def _disprove(self, seen: _Round, now: float) -> None:
        """Forget limits that were exceeded by more than a full bucket upstream could explain."""
        calls, pace = self.figures["calls"], self.figures["pace"]
        if pace.known is not None and not seen.refused:
            self._beyond = max(0.0, self._beyond + seen.calls - pace.known * (now - seen.began))
            if self._beyond > 2.5 * pace.known:
                self.figures["pace"] = estimated_limit.forget(pace)
        if calls.known is not None:
            doubt = max(3.0, max(0.15, self._in_transit) * calls.known)
            if max(self._peak[1:]) > calls.known + doubt:
                self.figures["calls"] = estimated_limit.forget(calls)

    # -- refused

    def _refused(self, sample: CallSample, now: float) -> None:
        self.traffic.refuse(sample.released_at, sample.tokens)
        if sample.released_at > self._cut_at + SAME_REFUSAL:
            if self._cut_again:
                self._cut(sample, now)
        elif "calls" in self._affected:
            found = self._found("calls", self._empty_at)
            self.figures["calls"] = estimated_limit.tighten(self.figures["calls"], self.rules["calls"], found)

    def _cut(self, sample: CallSample, now: float) -> None:
        flight, calls = self.traffic.flight(sample.released_at), self.figures["calls"]
        tried = 0.0 if calls.is_free else flight / 2
        self._least = tried if calls.known is None else min(flight, 0.93 * calls.known)
        blamed = attribute_refusal(
            sample.named, self._use("calls", flight + 1), self._use("pace", 0), max(self._peak[1:])
        )
        at = sample.released_at
        self._affected = tuple(name for name in blamed if self._may_lower(name, at))
        if not self._affected:
            return
        for name in self._affected:
            found = self._found(name, at)
            doubt = self._in_transit if name == "calls" else 0.0
            after = estimated_limit.refused(self.figures[name], self.rules[name], found, now, doubt)
            self.figures[name] = (
                after if name not in self.configured else self._not_below_taken(name, after, at)
            )
        self._beyond = 0.0
        self._empty_at = sample.released_at
        self._cut_at = now
        self._cut_again = False

    def _may_lower(self, name: Figure, at: float) -> bool:
        """Whether a refusal of a call released at `at` lowers a limit; a configured one takes many refusals."""
        if name not in self.configured or not self.figures[name].is_free:
            return True
        some_taken = (
            self.traffic.admitted_rate(at, self._empty_at).calls >= 1
        )  # a limit lets some calls through
        return self._doubt.score >= _DOUBTED and some_taken and self._tried(at) >= FEW

    def _tried(self, at: float) -> float:
        """Calls sent since the last pause, including those refused lately."""
        return self.traffic.admitted_rate(at, self._empty_at).calls + self._doubt.refusals

    def _not_below_taken(self, name: Figure, figure: EstimatedLimit, at: float) -> EstimatedLimit:
        """Never lower a configured limit below what was just accepted."""
        since = max(at - PEAK_SECONDS, self.traffic.busy_since(at, gap=PAUSE) or at)
        taken = dict(zip(("pace", "tokens"), self.traffic.between(since, at), strict=True))
        rate = taken.get(name, 0.0) / max(LONGEST_ROUND, at - since)
        if rate <= figure.level:
            return figure
        return replace(figure, level=rate, known=max(rate, figure.known or rate))

    def _use(self, name: Figure, flight: int) -> LimitUsage:
        figure, before = self.figures[name], self._before
        began = self._now.began if self._now is not None else 0.0
        bound = any(self._bound(name, seen, until) for seen, until in self._ended_rounds(name))
        amount = float(flight)
        if name == "pace":
            amount = (
                before.calls / (began - before.began) if before is not None and began > before.began else 0.0
            )
        return LimitUsage(
            name, amount, figure.level, figure.known, bound, self._in_transit if name == "calls" else 0.0
        )

    @property
    def _in_transit(self) -> float:
        """The share of concurrent calls that may be in transit, not upstream."""
        return min(_MOST_AWAY, _TRANSIT / max(self.latency, _TRANSIT))

    def _ended_rounds(self, name: Figure) -> Iterator[tuple[_Round, float]]:
        """The last round and its end; for concurrent calls, which need no span, the present one too."""
        if self._now is not None:
            if self._before is not None:
                yield self._before, self._now.began
            if name == "calls":
                yield self._now, self._now.began

    def _found(self, name: Figure, at: float) -> float:
        """The limit shown by the refusal of a call released at `at`.

        Half of what was tried, where too little was seen to measure by.
        """
        figure, measured = self.figures[name], self.traffic.admitted_rate(at, self._empty_at)
        if name == "calls":
            found = max(self._least, self.traffic.flight(at))
        else:
            found = measured.calls_a_second if name == "pace" else measured.tokens_a_second
            if figure.known is not None and self._probes(
                name
            ):  # what it rested at was taken, and a little more
                found = max(found, 1.05 * figure.known)
        enough = self._tried(at) >= FEW if name == "calls" else measured.calls >= FEW
        return found if figure.is_free or enough else max(figure.level / 2, found)

    def _overloaded(self, sample: CallSample, now: float) -> None:
        if not self._may_lower("calls", sample.released_at):
            return
        if sample.released_at > self._cut_at + SAME_REFUSAL and self._cut_again:
            used = self._now.most if self._now is not None else 0
            self.figures["calls"] = estimated_limit.decrease(self.figures["calls"], self.rules["calls"], used)
            self._affected = ()
            self._cut_at = now
            self._cut_again = False


def new_estimator(
    configured: Collection[Figure] = (),
    *,
    free: bool = False,
    rules: Mapping[Figure, EstimatorConfig] = RULES,
) -> LimitEstimator:
    """A new estimator. Limits configured here or on another quota of these calls start free; `free`: all do."""
    figures = {
        name: EstimatedLimit(FREE if free or name in configured else rules[name].start) for name in RULES
    }
    return LimitEstimator(figures, rules=rules, configured=frozenset(configured))


def to_facts(estimator: LimitEstimator) -> dict[str, Any]:
    """The estimates as plain values, to store."""
    kept = {name: asdict(figure) for name, figure in estimator.figures.items() if not figure.is_free}
    return {"figures": kept, "latency": estimator.latency}


def from_facts(facts: Mapping[str, Any], fresh: LimitEstimator) -> LimitEstimator:
    """Restore stored estimates at half rate into `fresh`. Unreadable ones are skipped."""
    for name, rules in fresh.rules.items():
        kept = facts.get("figures", {}).get(name)
        if kept is None:
            continue
        figure = EstimatedLimit(float(kept["level"]), kept.get("known"), float(kept.get("step", 0.25)))
        fresh.figures[name] = estimated_limit.restarted(figure, rules)
    fresh.latency = float(facts.get("latency", fresh.latency))
    return fresh
