"""A pace that follows response times: slower calls, fewer of them. A policy beside the learned limits, off unless
configured; it knows nothing of refusals.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median

_REMEMBERED = 200  # calls by which a model's own median is known


@dataclass(frozen=True, slots=True)
class PaceRules:
    """Figures of the policy. Times in seconds, paces in calls a second."""

    slow: float = 2.0  # slower than this on average: pace x `down`
    slow_times: float | None = None  # instead: so many times the model's own median
    fast: float = 0.5  # faster than this: pace x `up`
    calls: int = 20  # over which the average is taken, anew after each change
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
    _last: list[float] = field(default_factory=list)
    _known: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def __post_init__(self) -> None:
        self.level = self.level or self.rules.start

    def settled(self, seconds: float) -> None:
        """A call took so long."""
        self._last.append(seconds)
        if len(self._last) >= self.rules.calls:
            self.level = self._changed(fmean(self._last))
            self._known.extend(self._last)
            self._last.clear()

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
