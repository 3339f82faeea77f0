"""One estimated limit of an upstream: concurrent calls, calls per second, or tokens per second.

It is not configured, so it is found by trying:

1. Until the first refusal the level doubles each round that the backlog wanted more (slow start).
2. A refusal says where the limit is. The level falls below it, rises to a small margin under it, and rests there.
   Refused while it rested: the margin grows.
3. After the rest it probes, by a little, then by twice as much each round, until it is refused again. A limit that
   was found where it had been before is believed for three times as long, up to a minute.

The rest and the widening probe are what CUBIC (RFC 9438) does for a network path, in rounds instead of a cubic.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import fmean, median

FREE = math.inf  # the level of a limit that restricts nothing


@dataclass(frozen=True, slots=True)
class EstimatorConfig:
    """How a kind of limit is estimated."""

    start: float  # first level
    floor: float  # minimum
    grain: float = 0.0  # 1 for integers
    drop: float = 0.9  # factor of a measured limit for one round after a refusal
    margin: float = 0.005  # how far below a known limit it rests ...
    widening: float = 0.01  # ... and how much farther after each refusal at rest


CALLS_AT_ONCE = EstimatorConfig(start=20.0, floor=1.0, grain=1.0)
CALLS_A_SECOND = EstimatorConfig(start=20.0, floor=0.05, drop=0.8, margin=0.02, widening=0.02)
TOKENS_A_SECOND = EstimatorConfig(start=FREE, floor=1.0, drop=0.8, margin=0.02, widening=0.02)

_WIDEST = 0.15
_CAREFUL, _BOLD, _BOLDEST = 0.02, 0.25, 0.5  # steps of a probe: first where confirmed, first where not, last
_SAME, _EXACTLY = 0.2, 0.06  # a limit found within this part of the last one is the same
_SHORT_REST, _REST, _LONGER, _LONGEST_REST = 1.0, 6.0, 4.0, 60.0  # seconds


@dataclass(frozen=True, slots=True)
class EstimatedLimit:
    """An estimate. All instants on one clock, in seconds."""

    level: float  # the limit now; FREE while there is none
    known: float | None = None  # where the limit was found last
    step: float = 1.0  # the next round's growth, a part of the level
    margin: float = 0.0  # beside that of the rules: grows with refusals at rest
    rest: float = 0.0  # seconds that the present rest lasts
    rest_until: float = 0.0

    @property
    def is_free(self) -> bool:
        """Whether it restricts nothing."""
        return math.isinf(self.level)


def resting_level(figure: EstimatedLimit, rules: EstimatorConfig) -> float:
    """The level at which it rests below the known limit; FREE if none is known."""
    if figure.known is None:
        return FREE
    below = figure.known * (1 - rules.margin - figure.margin)
    if rules.grain:
        below = round(below / rules.grain) * rules.grain
    return max(rules.floor, below)


def is_probing(figure: EstimatedLimit, rules: EstimatorConfig) -> bool:
    """Whether it tries more than is known to be accepted: a refusal then concerns this limit."""
    return not figure.is_free and figure.level > resting_level(figure, rules)


def grown(figure: EstimatedLimit, rules: EstimatorConfig, now: float) -> EstimatedLimit:
    """After a round in which calls succeeded, none was refused, and the backlog wanted more than the level."""
    if figure.is_free:
        return figure
    resting = resting_level(figure, rules)
    if figure.level < resting and figure.known is not None:  # coming back
        return replace(figure, level=min(resting, figure.level * 2))
    if now < figure.rest_until:
        return figure
    return replace(
        figure,
        level=figure.level + max(rules.grain, figure.level * figure.step),
        step=min(1.0 if figure.known is None else _BOLDEST, figure.step * 2),
    )


def refused(
    figure: EstimatedLimit, rules: EstimatorConfig, found: float, now: float, doubt: float = 0.0
) -> EstimatedLimit:
    """The first refusal of a round, with the limit that it shows, by what part of it that may be too high."""
    found = max(rules.floor, min(found, figure.level))
    apart = FREE if figure.known is None else abs(found - figure.known) / figure.known
    confirmed = apart <= max(_SAME, doubt)
    if confirmed and figure.known is not None and rules.grain:
        found = min(found, figure.known) if doubt > _SAME / 2 else (found + figure.known) / 2
    at_rest = figure.known is not None and found >= 0.97 * figure.known and not is_probing(figure, rules)
    longer = min(_LONGEST_REST, figure.rest * _LONGER) if apart <= max(_EXACTLY, doubt) else _REST
    rest = max(_REST, longer) if confirmed else _SHORT_REST
    return EstimatedLimit(
        level=min(figure.level, max(rules.floor, found * rules.drop)),  # never higher after a refusal
        known=found,
        step=_CAREFUL if confirmed else _BOLD,
        margin=min(_WIDEST, figure.margin + rules.widening) if at_rest else figure.margin,
        rest=rest,
        rest_until=now + rest,
    )


def tighten(figure: EstimatedLimit, rules: EstimatorConfig, found: float) -> EstimatedLimit:
    """Later refusals of the same round show that the limit is lower still."""
    if figure.known is None or found >= figure.known:
        return figure
    found = max(rules.floor, found)
    return replace(figure, known=found, level=min(figure.level, max(rules.floor, found * rules.drop)))


def forget(figure: EstimatedLimit) -> EstimatedLimit:
    """More was accepted than the known limit: look for it again from here."""
    return replace(figure, known=None, step=_BOLD, rest=0.0, rest_until=0.0)


def decrease(figure: EstimatedLimit, rules: EstimatorConfig, used: float) -> EstimatedLimit:
    """The upstream is overloaded (503): for a round somewhat less than was in use. The known limit stays."""
    level = max(rules.floor, min(figure.level, used) * 0.85)
    known = figure.known if figure.known is not None or figure.is_free else figure.level
    if figure.is_free:
        known = max(rules.floor, used)
    return replace(figure, level=level, known=known, step=min(figure.step, _BOLD))


def restarted(figure: EstimatedLimit, rules: EstimatorConfig) -> EstimatedLimit:
    """After a pause: half of the level before, then back by doubling."""
    if figure.is_free:
        return figure
    return replace(figure, level=max(min(figure.level, rules.start), figure.level / 2))


BIN = 0.02  # seconds
KEPT = 90.0  # seconds
BURST = 2.0  # seconds' worth that a provider is assumed to accept at once after a rest
PAUSE = 5.0  # seconds without a release, after which nothing before counts
SHORTEST_SPAN = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """Calls and tokens a second, and the number of calls they are measured by."""

    calls_a_second: float
    tokens_a_second: float
    calls: float


@dataclass(slots=True)
class _Bin:
    number: float
    calls: float = 0.0
    tokens: float = 0.0
    flight: int = 0  # the most calls at once


class Traffic:
    """Amounts by the instant of their release, in bins of 20 ms."""

    __slots__ = ("_bins",)

    def __init__(self) -> None:
        self._bins: deque[_Bin] = deque()  # in order

    def add(self, at: float, calls: int, tokens: float, flight: int) -> None:
        """Count a release in, which made `flight` calls at once."""
        found = self._bin(at // BIN)
        found.calls += calls
        found.tokens += tokens
        found.flight = max(found.flight, flight)

    def refuse(self, at: float, tokens: float) -> None:
        """Take a call out that was released at `at`, and was not admitted: it was never in flight upstream."""
        found = self._bin(at // BIN)
        found.calls -= 1
        found.tokens -= tokens
        for known in reversed(self._bins):
            if known.number < found.number:
                break
            known.flight -= 1

    def between(self, since: float, until: float) -> tuple[float, float]:
        """Calls and tokens released after `since`, until and with `until`."""
        first, last = since // BIN, until // BIN
        within = [known for known in self._bins if first < known.number <= last]
        return sum(known.calls for known in within), sum(known.tokens for known in within)

    def flight(self, at: float) -> int:
        """How many calls at once there were after the release at `at`; 0 when that is forgotten."""
        index = bisect_left(self._bins, at // BIN, key=lambda known: known.number)
        return self._bins[index].flight if index < len(self._bins) else 0

    def admitted_rate(self, at: float, empty_at: float) -> Measured:
        """How fast an upstream admitted what was released until it refused at `at`.

        Between two instants at which its bucket was empty (`empty_at` is the last one before) it admitted what it
        refilled. Over any other span it admitted up to BURST seconds' worth more than that, and less where it was not
        asked for more: the largest of these measures is the nearest. A pause of PAUSE seconds begins anew.
        """
        started = self.busy_since(at, gap=PAUSE)
        if started is None:
            return Measured(0.0, 0.0, 0.0)
        if empty_at >= started:
            started = empty_at
            spans = [(started, max(SHORTEST_SPAN, at - started))]
        else:
            spans = [(started - 2 * BIN, at - started + BURST)]
        spans += [(at - span, span + BURST) for span in (2.0, 4.0, 8.0, 16.0, 32.0) if span < at - started]
        amounts = [(*self.between(since, at), seconds) for since, seconds in spans]
        return Measured(
            max(calls / seconds for calls, _, seconds in amounts),
            max(tokens / seconds for _, tokens, seconds in amounts),
            self.between(started - 2 * BIN, at)[0],
        )

    def busy_since(self, now: float, gap: float) -> float | None:
        """The first release after the last pause of more than `gap` seconds; None when there was none lately."""
        start, before = None, now // BIN
        for known in reversed(self._bins):
            if (before - known.number) * BIN > gap:
                break
            start = before = known.number
        return None if start is None else start * BIN

    def _bin(self, number: float) -> _Bin:
        if not self._bins or self._bins[-1].number < number:
            self._bins.append(_Bin(number))
            while (number - self._bins[0].number) * BIN > KEPT:
                self._bins.popleft()
            return self._bins[-1]
        index = bisect_left(self._bins, number, key=lambda known: known.number)
        return self._bins[index]  # its own, or the next when it was never made or is forgotten


_REMEMBERED = 200  # calls by which a model's own median is known


@dataclass(frozen=True, slots=True)
class PaceRules:
    """Figures of the policy. Times in seconds, paces in calls a second."""

    slow: float = 2.0  # slower than this on average: pace x `down`
    slow_times: float | None = None  # instead: so many times the model's own median
    fast: float = 0.5  # faster than this: pace x `up`
    calls: int = 20  # the last calls, over which the average is taken
    down: float = 0.8
    up: float = 1.25
    start: float = 5.0
    floor: float = 1.0
    ceiling: float = 20.0
    upstreams: frozenset[str] = frozenset()  # it is for; none: all

    def concerns(self, upstream: str) -> bool:
        """Whether calls to an upstream are paced by it."""
        return not self.upstreams or upstream in self.upstreams


@dataclass(slots=True)
class ResponsePace:
    """The pace of one quota."""

    rules: PaceRules = PaceRules()
    level: float = 0.0
    _last: deque[float] = field(default_factory=deque)
    _known: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def __post_init__(self) -> None:
        self.level = self.level or self.rules.start

    def settled(self, seconds: float, *, failed: bool = False) -> None:
        """A call took so long. A failure counts at least as twice `slow`, however fast it came.

        From the first full window on, each call changes the pace.
        """
        counted = max(seconds, 2 * self._slow()) if failed else seconds
        self._last.append(counted)
        if len(self._last) > self.rules.calls:
            self._last.popleft()
        if len(self._last) == self.rules.calls:
            self.level = self._changed(fmean(self._last))
        if not failed:
            self._known.append(seconds)

    def _changed(self, mean: float) -> float:
        if mean > self._slow():
            return max(self.rules.floor, self.level * self.rules.down)
        if mean < self.rules.fast:
            return min(self.rules.ceiling, self.level * self.rules.up)
        return self.level

    def _slow(self) -> float:
        if self.rules.slow_times is None or not self._known:
            return self.rules.slow
        return self.rules.slow_times * median(self._known)
