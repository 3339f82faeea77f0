"""The upstream calls of the last minutes, counted by the second: what alerts about them are judged by. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from app.tasks.domain.attempt import Outcome

SPAN = 300.0  # seconds that are kept
FEWEST = 20  # calls below which a share says nothing
_BIN = 0.1  # seconds
_MOST_BIN = 600  # overheads beyond a minute count as a minute

REFUSED = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})
_NO_CALL = frozenset({Outcome.RETURNED, Outcome.CANCELLED})
# What an upstream says of a request, not of itself.
_REQUEST = frozenset({Outcome.INVALID_REQUEST, Outcome.CONTENT_REFUSED, Outcome.CONTEXT_TOO_LONG})


@dataclass(slots=True)
class _Second:
    calls: int = 0
    errors: int = 0  # neither a result, nor a refusal (429, 503), nor the request's own fault
    overloaded: int = 0
    refused: int = 0
    successes: int = 0
    overheads: Counter[int] = field(default_factory=Counter)  # by tenths of a second


class CallWindow:
    """Memory is bounded by SPAN."""

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self.last_success_at = 0.0

    def add(self, outcome: str, at: float, overhead: float | None) -> None:
        """Count a call that ended at `at`; `overhead`: seconds from its release to its start."""
        if outcome in _NO_CALL:
            return
        second = self._seconds.setdefault(int(at), _Second())
        second.calls += 1
        second.successes += outcome == Outcome.SUCCEEDED
        second.overloaded += outcome == Outcome.OVERLOADED
        second.refused += outcome in REFUSED
        second.errors += outcome != Outcome.SUCCEEDED and outcome not in REFUSED | _REQUEST
        if overhead is not None:
            second.overheads[min(_MOST_BIN, int(max(0.0, overhead) / _BIN))] += 1
        if outcome == Outcome.SUCCEEDED:
            self.last_success_at = max(self.last_success_at, at)

    def forget(self, now: float) -> None:
        """Drop what is too old."""
        for second in [second for second in self._seconds if second < now - SPAN]:
            del self._seconds[second]

    def error_rate(self, now: float, span: float = 60.0) -> float:
        """Failed calls among all of the last `span` seconds."""
        found = self._sum(now, span)
        return found.errors / found.calls if found.calls >= FEWEST else 0.0

    def overloaded_rate(self, now: float, span: float = 60.0) -> float:
        """Calls answered by 503 among all."""
        found = self._sum(now, span)
        return found.overloaded / found.calls if found.calls >= FEWEST else 0.0

    def failure_rate(self, now: float, span: float = SPAN) -> float:
        """Calls without a result among those that were answered, refusals aside."""
        found = self._sum(now, span)
        answered = found.calls - found.refused
        return 1 - found.successes / answered if answered >= FEWEST else 0.0

    def overhead_p99(self, now: float, span: float = SPAN) -> float:
        """The 99th percentile of the time from release to start, to a tenth of a second."""
        overheads = self._sum(now, span).overheads
        total = overheads.total()
        if total < FEWEST:
            return 0.0
        left = total * 0.01
        for number in sorted(overheads, reverse=True):
            left -= overheads[number]
            if left < 0:
                return number * _BIN
        return 0.0

    def _sum(self, now: float, span: float) -> _Second:
        total = _Second()
        for at, second in self._seconds.items():
            if at >= now - span:
                total.calls += second.calls
                total.errors += second.errors
                total.overloaded += second.overloaded
                total.refused += second.refused
                total.successes += second.successes
                total.overheads.update(second.overheads)
        return total
