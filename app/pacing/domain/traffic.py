"""What was released to a quota lately, and how many calls that made at once: what its limits are measured by."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

BIN = 0.02  # seconds
KEPT = 90.0  # seconds
BURST = 2.0  # seconds' worth that a provider is taken to let through at once after a rest
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
