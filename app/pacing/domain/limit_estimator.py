"""What is learned of one quota: calls at once, calls a second and, once they are refused, tokens a second.

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
from app.upstreams.domain.attribute_refusal import USED, Figure, LimitUsage, attribute_refusal

SHORTEST_ROUND, LONGEST_ROUND = 0.2, 1.0  # seconds; between them a round is as long as a call
SAME_REFUSAL = 0.5  # seconds after a cut in which refusals are still about what was cut
PROVED_FOR = 10.0  # seconds for which a success proves how many calls at once are taken
QUIET = 1.5  # seconds after the last release in which a refusal of it would have come
FEW = 8  # calls, by which no rate can be measured
_IN_FULL = EstimatedLimit(FREE)
_BURST = 0.1  # seconds' worth that may go at once
_LATE = 0.05  # seconds by which the dispatcher may be late without losing pace: it shows where calls go one by one
# Seconds for which a call is counted here while it is not there: on its way out and back, and until it is settled. With
# short calls these are a good part of all that are counted.
_TRANSIT, _MOST_AWAY = 0.08, 0.5
# What is configured is doubted after so many refusals, less one for so many successes each; seconds without one end it.
_DOUBTED, _REASSURED, _FORGOTTEN = 3.0, 1 / 20, 10.0
RETURN = 6.0  # seconds without a refusal after which what is configured counts again

RULES: Mapping[Figure, EstimatorConfig] = {
    "calls": CALLS_AT_ONCE,
    "pace": CALLS_A_SECOND,
    "tokens": TOKENS_A_SECOND,
}


@dataclass(frozen=True, slots=True)
class CallSample:
    """What a call came to, as far as it teaches anything. `refused` is a 429, `overloaded` a 503."""

    kind: Literal["success", "refused", "overloaded"]
    released_at: float
    seconds: float = 0.0  # that it took
    tokens: float = 0.0  # that were reserved for it
    named: Figure | None = None  # the limit that a refusal names


@dataclass(slots=True)
class _Round:
    """What was seen from `began` on."""

    began: float
    most: int = 0  # calls at once
    calls: float = 0.0
    tokens: float = 0.0
    successes: int = 0
    wanted: bool = False
    refused: bool = False


@dataclass(slots=True)
class _Doubt:
    """Whether refusals are many enough, among those that were taken, to show that what is configured is wrong."""

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
    told: frozenset[Figure] = frozenset()  # configured: learned only for the case that this is wrong
    _now: _Round | None = None
    _before: _Round | None = None
    _released_at: float | None = None
    _proved: tuple[float, int, int] = (0.0, 0, 0)  # since; most calls at once, now and in the span before
    # The last cut, what it was about, and how far it may go.
    _cut_at: float = -1e18
    _blamed: tuple[Figure, ...] = ()
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

    # -- what is seen

    def look(self, now: float, flight: int, *, wanted: bool) -> None:
        """Once a tick. `wanted`: something waits that may use this quota."""
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
        """Calls were let through, which made `flight` calls at once."""
        if self._released_at is not None and at - self._released_at > PAUSE:
            for name, rules in self.rules.items():
                figure = self.figures[name]
                self.figures[name] = (
                    _IN_FULL if name in self.told else estimated_limit.restarted(figure, rules)
                )
        self._released_at = at
        self.traffic.add(at, calls, tokens, flight)
        if self._now is None:
            self._now = _Round(at)
        self._now.calls += calls
        self._now.tokens += tokens
        self._now.most = max(self._now.most, flight)

    def settled(self, lesson: CallSample, now: float) -> None:
        """A call came back."""
        if lesson.kind == "success":
            self._succeeded(lesson, now)
            return
        self._doubt.refused(now)
        if self._now is not None:
            self._now.refused = True
        if lesson.kind == "refused":
            self._refused(lesson, now)
        else:
            self._overloaded(lesson, now)

    # -- growing

    def _round_length(self) -> float:
        """As long as a call, within bounds, and two calls at least; a second once a limit is known."""
        known = any(figure.known is not None for figure in self.figures.values())
        length = LONGEST_ROUND if known else min(LONGEST_ROUND, max(SHORTEST_ROUND, self.latency))
        return max(length, 2 / self.figures["pace"].level)

    def _is_taken(self, seen: _Round, now: float) -> bool:
        """Whether long calls fill the level and none of them was refused: a refusal would have come by now."""
        full = seen.most >= self.figures["calls"].level and self._released_at is not None
        return full and now - (self._released_at or now) >= QUIET

    def _grow(self, seen: _Round, now: float) -> None:
        """What held the backlog back grows; of those that would go beyond a known limit only the first one does.

        With one figure tried at a time a refusal tells which one it is about.
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
        """What is configured counts again, but for a lowered figure that many calls use up."""
        if now - self._doubt.at < RETURN:
            return
        lowered = [name for name in self.told if not self.figures[name].is_free]
        few = bool(lowered) and max(seen.most, self.traffic.between(now - RETURN, now)[0]) < FEW
        for name in lowered:
            if few or (ended and not self._bound(name, seen, now)):
                self.figures[name] = _IN_FULL

    # -- succeeding

    def _succeeded(self, lesson: CallSample, now: float) -> None:
        self.latency += (lesson.seconds - self.latency) * 0.1
        self._doubt.taken()
        self._cut_again = self._cut_again or lesson.released_at > self._cut_at
        if self._now is not None:
            self._now.successes += 1
        since, most, before = self._proved
        if now - since > PROVED_FOR:
            since, most, before = now, 0, most
        self._proved = (since, max(most, self.traffic.flight(lesson.released_at)), before)

    def _disprove(self, seen: _Round, now: float) -> None:
        """Forget limits beyond which more was taken than a rested bucket upstream could explain."""
        calls, pace = self.figures["calls"], self.figures["pace"]
        if pace.known is not None and not seen.refused:
            self._beyond = max(0.0, self._beyond + seen.calls - pace.known * (now - seen.began))
            if self._beyond > 2.5 * pace.known:
                self.figures["pace"] = estimated_limit.forget(pace)
        if calls.known is not None:
            doubt = max(3.0, max(0.15, self._away) * calls.known)
            if max(self._proved[1:]) > calls.known + doubt:
                self.figures["calls"] = estimated_limit.forget(calls)

    # -- refused

    def _refused(self, lesson: CallSample, now: float) -> None:
        self.traffic.refuse(lesson.released_at, lesson.tokens)
        if lesson.released_at > self._cut_at + SAME_REFUSAL:
            if self._cut_again:
                self._cut(lesson, now)
        elif "calls" in self._blamed:
            found = self._found("calls", self._empty_at)
            self.figures["calls"] = estimated_limit.tighten(self.figures["calls"], self.rules["calls"], found)

    def _cut(self, lesson: CallSample, now: float) -> None:
        flight, calls = self.traffic.flight(lesson.released_at), self.figures["calls"]
        tried = 0.0 if calls.is_free else flight / 2
        self._least = tried if calls.known is None else min(flight, 0.93 * calls.known)
        blamed = attribute_refusal(
            lesson.named, self._use("calls", flight + 1), self._use("pace", 0), max(self._proved[1:])
        )
        at = lesson.released_at
        self._blamed = tuple(name for name in blamed if self._may_lower(name, at))
        if not self._blamed:
            return
        for name in self._blamed:
            found = self._found(name, at)
            doubt = self._away if name == "calls" else 0.0
            after = estimated_limit.refused(self.figures[name], self.rules[name], found, now, doubt)
            self.figures[name] = after if name not in self.told else self._not_below_taken(name, after, at)
        self._beyond = 0.0
        self._empty_at = lesson.released_at
        self._cut_at = now
        self._cut_again = False

    def _may_lower(self, name: Figure, at: float) -> bool:
        """Whether a refusal of what was released at `at` lowers a figure; one that is configured needs many of them."""
        if name not in self.told or not self.figures[name].is_free:
            return True
        some_taken = (
            self.traffic.admitted_rate(at, self._empty_at).calls >= 1
        )  # a limit lets something through
        return self._doubt.score >= _DOUBTED and some_taken and self._tried(at) >= FEW

    def _tried(self, at: float) -> float:
        """Calls that were sent since the last pause, refused ones of late too."""
        return self.traffic.admitted_rate(at, self._empty_at).calls + self._doubt.refusals

    def _not_below_taken(self, name: Figure, figure: EstimatedLimit, at: float) -> EstimatedLimit:
        """What is configured is never lowered below what was just seen to be taken."""
        since = max(at - PROVED_FOR, self.traffic.busy_since(at, gap=PAUSE) or at)
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
            name, amount, figure.level, figure.known, bound, self._away if name == "calls" else 0.0
        )

    @property
    def _away(self) -> float:
        """What part of the calls counted at once may not be with the upstream."""
        return min(_MOST_AWAY, _TRANSIT / max(self.latency, _TRANSIT))

    def _ended_rounds(self, name: Figure) -> Iterator[tuple[_Round, float]]:
        """The last round and its end; for the calls at once, which need no span, the present one too."""
        if self._now is not None:
            if self._before is not None:
                yield self._before, self._now.began
            if name == "calls":
                yield self._now, self._now.began

    def _found(self, name: Figure, at: float) -> float:
        """The limit that the refusal of what was released at `at` shows.

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

    def _overloaded(self, lesson: CallSample, now: float) -> None:
        if not self._may_lower("calls", lesson.released_at):
            return
        if lesson.released_at > self._cut_at + SAME_REFUSAL and self._cut_again:
            used = self._now.most if self._now is not None else 0
            self.figures["calls"] = estimated_limit.decrease(self.figures["calls"], self.rules["calls"], used)
            self._blamed = ()
            self._cut_at = now
            self._cut_again = False


def new_estimator(
    told: Collection[Figure] = (), *, free: bool = False, rules: Mapping[Figure, EstimatorConfig] = RULES
) -> LimitEstimator:
    """Nothing known yet. What was told for these calls, here or on another quota, starts free; `free`: all."""
    figures = {name: EstimatedLimit(FREE if free or name in told else rules[name].start) for name in RULES}
    return LimitEstimator(figures, rules=rules, told=frozenset(told))


def to_facts(estimator: LimitEstimator) -> dict[str, Any]:
    """What is worth keeping, as plain values."""
    kept = {name: asdict(figure) for name, figure in estimator.figures.items() if not figure.is_free}
    return {"figures": kept, "latency": estimator.latency}


def from_facts(facts: Mapping[str, Any], fresh: LimitEstimator) -> LimitEstimator:
    """What was kept, taken up again at half pace; `fresh` says what is learned at all. Unreadable facts are skipped."""
    for name, rules in fresh.rules.items():
        kept = facts.get("figures", {}).get(name)
        if kept is None:
            continue
        figure = EstimatedLimit(float(kept["level"]), kept.get("known"), float(kept.get("step", 0.25)))
        fresh.figures[name] = estimated_limit.restarted(figure, rules)
    fresh.latency = float(facts.get("latency", fresh.latency))
    return fresh
