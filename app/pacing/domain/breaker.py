"""A breaker per upstream and model: stops calls to a dead one, and lets a few through as probes.

    closed --(evidence, see below)--> open --(5 s; 2 s while work waits)--> half open
    half open --(a success)--> closed, at half pace at first        half open --(a failure)--> open, for longer

An operator may configure a share of failures, or a number of them in a row, to open by instead. Refusals (429) are
the quota's business and never count. "Released" instants decide what a call proves: one released before the breaker
opened says nothing of now.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from app.tasks.domain.attempt import Outcome

NOISE, DEAD = 0.4, 0.98  # shares of calls that fail: tolerable noise, and a dead upstream
QUIET = 3600.0  # seconds in the mean, at least, between false alarms at any noise up to NOISE
SUCCESS = -4  # the score of a success, where a failure scores 1
_SLOWEST = 0.1  # calls a second: below it the threshold falls no further
_ROUNDING = 0.001  # seconds: instants may be written with fewer digits
_KEPT = 1000  # calls that ended
_OUT = SUCCESS - 1  # of a call in flight: it counts as a success until it ends


def threshold(calls_a_second: float) -> int:
    """The score that shows a dead upstream at this rate: false alarms are QUIET seconds apart in the mean."""
    return math.ceil(math.log(max(_SLOWEST, calls_a_second) * QUIET) / math.log(DEAD / NOISE))


@dataclass(slots=True)
class Evidence:
    """The last calls in the order of their release. Instants are pacing time."""

    _at: list[float] = field(default_factory=list)  # in order
    _scores: list[int] = field(default_factory=list)
    _out: int = 0
    _last_failed: float = -math.inf  # the latest release of a call that failed

    def released(self, at: float, calls: int) -> None:
        """Calls were released."""
        if self._at and at < self._at[-1]:  # pacing time has gone back
            self._at, self._scores, self._out = [], [], 0
        self._at += [at] * calls
        self._scores += [_OUT] * calls
        self._out += calls
        if len(self._at) > 2 * _KEPT + self._out:
            self._forget_oldest()

    def settled(self, released_at: float, *, failed: bool) -> None:
        """A call ended."""
        score = 1 if failed else SUCCESS
        place = self._undecided(released_at)
        if place is None:
            place = bisect_right(self._at, released_at)
            self._at.insert(place, released_at)
            self._scores.insert(place, score)
        else:  # in its place: others of that instant still in flight come after it, and count against a failure
            self._scores[place] = score
            self._out -= 1
        if failed:
            self._last_failed = max(self._last_failed, self._at[place])

    def forget(self, released_at: float) -> None:
        """A call ended in a way that is no evidence."""
        place = self._undecided(released_at)
        if place is not None:
            self._drop(place)

    def _undecided(self, released_at: float) -> int | None:
        """Index of the first call of that instant that is still in flight."""
        first = bisect_left(self._at, released_at - _ROUNDING)
        end = bisect_right(self._at, released_at + _ROUNDING)
        return next((place for place in range(first, end) if self._scores[place] == _OUT), None)

    def keep_undecided(self, most: int) -> None:
        """At most so many calls are in flight: older ones were never made, as their permits were not redeemed."""
        if self._out > most:
            out = [place for place, score in enumerate(self._scores) if score == _OUT]
            for place in reversed(out[: self._out - most]):
                self._drop(place)

    def failures(self, calls_a_second: float) -> int:
        """How many failures show that it is dead; 0 if it is not."""
        wanted, score, failures = threshold(calls_a_second), 0, 0
        for place in range(bisect_right(self._at, self._last_failed) - 1, -1, -1):
            score += max(SUCCESS, self._scores[place])
            failures += self._scores[place] == 1
            if score >= wanted:
                return failures
            if score <= -wanted:  # earlier failures would have been noticed then
                return 0
        return 0

    def _drop(self, place: int) -> None:
        self._out -= self._scores[place] == _OUT
        del self._at[place], self._scores[place]

    def _forget_oldest(self) -> None:
        decided = [place for place, score in enumerate(self._scores) if score != _OUT]
        for place in reversed(decided[:-_KEPT]):
            self._drop(place)


FAILURES = frozenset({Outcome.UNAVAILABLE, Outcome.TIMED_OUT, Outcome.MALFORMED, Outcome.OVERLOADED})
# Outcomes of an upstream that works, whatever it thinks of the request.
WORKING = frozenset(
    {Outcome.SUCCEEDED, Outcome.INVALID_REQUEST, Outcome.CONTENT_REFUSED, Outcome.CONTEXT_TOO_LONG}
)


class BreakerState(StrEnum):
    """State of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When it opens and how it closes, in seconds. By evidence unless `share` or `in_a_row` is configured."""

    share: float | None = None
    calls: int = 20  # minimum for the share to count
    within: float = 10.0
    in_a_row: int | None = None
    open_for: float = 5.0
    open_for_waiting: float = 2.0  # while work waits
    longest: float = 60.0  # repeated openings double the time, up to this
    longest_waiting: float = 4.0
    probes: int = 1  # calls let through at once while half open
    probe_patience: float = 30.0  # after which a probe without an answer no longer blocks the next
    half_pace_for: float = 4.0  # after closing


@dataclass(slots=True)
class CircuitBreaker:
    """One upstream and model. Instants are pacing time."""

    rules: BreakerRules = BreakerRules()
    state: BreakerState = BreakerState.CLOSED
    changed_at: float = 0.0
    openings: int = 0  # since it last closed for good
    reason: str = ""
    _recent: deque[tuple[float, bool]] = field(default_factory=deque)  # (at, whether it failed)
    _failed: int = 0
    _evidence: Evidence = field(default_factory=Evidence)
    _row: int = 0
    _row_since: float = 0.0  # release of the row's first failure
    _probes: list[float] = field(default_factory=list)  # releases of probes without an answer yet
    _closed_at: float | None = None  # when it closed after having been open

    def settled(self, outcome: Outcome, released_at: float, now: float) -> None:
        """A call ended."""
        failed = outcome in FAILURES
        if not failed and outcome not in WORKING:
            self._answered(released_at)
            self._evidence.forget(released_at)
            return
        if self.state is not BreakerState.CLOSED:
            self._probed(outcome, released_at, now)
            return
        if released_at < self.changed_at:
            return  # sent before it last closed
        self._count(failed, now)
        self._count_row(failed, released_at)
        self._evidence.settled(released_at, failed=failed)
        if reason := self._reason(failed=failed):
            self._open(now, f"{reason}, the last: {outcome}")

    def look(self, now: float, *, waiting: bool, flight: int | None = None) -> None:
        """Once a tick: an open breaker becomes half open when its time is over, sooner if work waits.

        `flight`: permits that are out, where that is known: other calls are not waited for any more.

        Pacing time may have gone back, when Redis was restored from an older file: what lies ahead counts from now on.
        """
        self.changed_at = min(self.changed_at, now)
        if flight is not None:
            self._evidence.keep_undecided(flight)
        if self._closed_at is not None:
            self._closed_at = min(self._closed_at, now)
        if self.state is BreakerState.OPEN and now >= self.opens_until(waiting=waiting):
            self.state, self.changed_at = BreakerState.HALF_OPEN, now
            self._probes.clear()
        self._probes = [at for at in self._probes if -_ROUNDING <= now - at < self.rules.probe_patience]
        if (
            self._closed_at is not None
            and now - self._closed_at > self.rules.within + self.rules.half_pace_for
        ):
            self._closed_at, self.openings = None, 0

    def released(self, at: float, calls: int) -> None:
        """Calls were released."""
        self._evidence.released(at, calls)
        if self.state is BreakerState.HALF_OPEN:
            self._probes += [at] * calls

    def opens_until(self, *, waiting: bool) -> float:
        """When an open breaker lets a call through; 0 when it is not open."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        rules, doubled = self.rules, 2.0 ** min(30, self.openings - 1)
        if waiting:
            return self.changed_at + min(rules.longest_waiting, rules.open_for_waiting * doubled)
        return self.changed_at + min(rules.longest, rules.open_for * doubled)

    def room(self) -> int | None:
        """How many more calls may be released now; None for no limit."""
        if self.state is BreakerState.CLOSED:
            return None
        return 0 if self.state is BreakerState.OPEN else max(0, self.rules.probes - len(self._probes))

    def pace(self, now: float) -> float:
        """The part of its quotas that may be used: half when it has just closed, rising to all.

        Never less, whatever `now` is: a negative rate would empty a bucket for months.
        """
        if self.state is not BreakerState.CLOSED or self._closed_at is None:
            return 1.0
        return min(1.0, 0.5 + 0.5 * max(0.0, now - self._closed_at) / self.rules.half_pace_for)

    # -- closed

    def _reason(self, *, failed: bool) -> str:
        """Why it opens now; "" if it does not."""
        rules, calls = self.rules, len(self._recent)
        if rules.in_a_row is not None and self._row >= rules.in_a_row:
            return f"{self._row} failures in a row"
        if rules.share is not None and calls >= rules.calls and self._failed >= rules.share * calls:
            return f"{self._failed} of {calls} calls failed within {rules.within:.0f} s"
        if failed and rules.in_a_row is None and rules.share is None:
            failures = self._evidence.failures(calls / rules.within)
            return f"{failures} failures and hardly a success" if failures else ""
        return ""

    def _count(self, failed: bool, now: float) -> None:
        self._recent.append((now, failed))
        self._failed += failed
        while self._recent[0][0] < now - self.rules.within:
            self._failed -= self._recent.popleft()[1]

    def _count_row(self, failed: bool, released_at: float) -> None:
        """A success breaks the row only if it was released after the row's first failure."""
        if failed:
            if self._row == 0:
                self._row_since = released_at
            self._row += 1
        elif released_at >= self._row_since:
            self._row = 0

    # -- open and half open

    def _probed(self, outcome: Outcome, released_at: float, now: float) -> None:
        if self.state is BreakerState.OPEN or released_at < self.changed_at - _ROUNDING:
            return
        self._answered(released_at)
        if outcome in FAILURES:
            self._open(now, f"still failing: {outcome}")
        else:
            self.state, self.changed_at, self._closed_at, self.reason = BreakerState.CLOSED, now, now, ""

    def _answered(self, released_at: float) -> None:
        answered = next((at for at in self._probes if abs(at - released_at) <= _ROUNDING), None)
        if answered is not None:
            self._probes.remove(answered)

    def _open(self, now: float, reason: str) -> None:
        self.state, self.changed_at, self.reason = BreakerState.OPEN, now, reason
        self.openings += 1
        self._closed_at = None
        self._recent.clear()
        self._evidence = Evidence()
        self._failed = self._row = 0
