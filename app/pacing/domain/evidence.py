"""Evidence that an upstream is dead, as against noisy: a CUSUM test on what calls came to, in the order of release.

Two hypotheses: noisy, up to NOISE of all calls fail; dead, DEAD of them do. A failure raises the score by its
log-likelihood ratio, ln(DEAD / NOISE) = 0.90; a success lowers it by ln((1 - NOISE) / (1 - DEAD)) = 3.40, never below
0. In units of a failure: 1 up, 4 down (3.8, rounded to what alarms less). It is dead when the score reaches h. Between
false alarms lie at least e^(0.90 h) calls in the mean, whatever the noise up to NOISE (G. Lorden, Procedures for
reacting to a change in distribution, Annals of Mathematical Statistics 42, 1971). So that at r calls a second there is
one in QUIET seconds at most:

    h = ln(r * QUIET) / ln(DEAD / NOISE), rounded up

Exact, of the Markov chain of the score, m(s) = 1 + q m(s + 1) + (1 - q) m(max(0, s - 4)) and m(h) = 0, is the mean
time between false alarms m(0) / r where a share q of calls fails:

    r calls a second   0.1        1         10        50        500
    h                  7          10        12        14        17
    q = 5, 10 %        3 years and more
    q = 25 %           2.5 days   16 days   25 days   81 days   1.4 years
    q = 40 %           2.8 h      4.1 h     2.5 h     3.0 h     4.5 h
    q = 50 %           41 min     30 min    11 min    8 min     6 min
    q = 98 %: calls    8          11        13        15        19

Calls in flight count as successes until they are back: failures often come sooner than answers do, and the first to
come back would else speak for all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

NOISE, DEAD = 0.4, 0.98  # shares of calls that fail: tolerable, and of what is dead
QUIET = 3600.0  # seconds in the mean, at least, between false alarms at any noise up to NOISE
SUCCESS = -4  # the score of a success, where a failure scores 1
_SLOWEST = 0.1  # calls a second: below it no fewer failures suffice
_SAME = 0.001  # seconds: instants that were written with fewer digits
_KEPT = 1000  # calls that came back
_OUT = SUCCESS - 1  # of a call that is not back yet: it counts as a success until then


def threshold(calls_a_second: float) -> int:
    """The score at which what is called so often is dead: false alarms are QUIET seconds apart in the mean."""
    return math.ceil(math.log(max(_SLOWEST, calls_a_second) * QUIET) / math.log(DEAD / NOISE))


@dataclass(slots=True)
class Evidence:
    """The last calls in the order of their release. Instants are gate time."""

    _at: list[float] = field(default_factory=list)  # in order
    _scores: list[int] = field(default_factory=list)
    _out: int = 0
    _last_failed: float = -math.inf  # the latest release of a call that failed

    def released(self, at: float, calls: int) -> None:
        """Calls were let through."""
        if self._at and at < self._at[-1]:  # gate time has gone back
            self._at, self._scores, self._out = [], [], 0
        self._at += [at] * calls
        self._scores += [_OUT] * calls
        self._out += calls
        if len(self._at) > 2 * _KEPT + self._out:
            self._forget_oldest()

    def settled(self, released_at: float, *, failed: bool) -> None:
        """A call came back."""
        self.forget(released_at)
        place = bisect_right(self._at, released_at)
        self._at.insert(place, released_at)
        self._scores.insert(place, 1 if failed else SUCCESS)
        if failed:
            self._last_failed = max(self._last_failed, released_at)

    def forget(self, released_at: float) -> None:
        """A call came to what tells nothing."""
        for place in range(bisect_left(self._at, released_at - _SAME), len(self._at)):
            if self._at[place] > released_at + _SAME:
                return
            if self._scores[place] == _OUT:
                self._drop(place)
                return

    def keep_undecided(self, most: int) -> None:
        """No more calls than so many are out: older ones ended without a word (their permits were never redeemed)."""
        if self._out > most:
            out = [place for place, score in enumerate(self._scores) if score == _OUT]
            for place in reversed(out[: self._out - most]):
                self._drop(place)

    def failures(self, calls_a_second: float) -> int:
        """How many failures say that it is dead; 0: it is not."""
        wanted, score, failures = threshold(calls_a_second), 0, 0
        for place in range(bisect_right(self._at, self._last_failed) - 1, -1, -1):
            score += max(SUCCESS, self._scores[place])
            failures += self._scores[place] == 1
            if score >= wanted:
                return failures
            if score <= -wanted:  # what failed before would have been seen then
                return 0
        return 0

    def _drop(self, place: int) -> None:
        self._out -= self._scores[place] == _OUT
        del self._at[place], self._scores[place]

    def _forget_oldest(self) -> None:
        decided = [place for place, score in enumerate(self._scores) if score != _OUT]
        for place in reversed(decided[:-_KEPT]):
            self._drop(place)
