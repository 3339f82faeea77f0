"""Upstream calls of the last minutes, counted by the second: throughput, batch forecasts, rates for alerts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.tasks.domain.attempt import Outcome

Kind = Literal["done", "refused", "failed"]
KEPT_SECONDS = 120  # seconds that are kept
SENT_SPAN = 60  # seconds: the span of "per minute" counts

REFUSED = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})
_NOT_SENT = frozenset({Outcome.RETURNED, Outcome.CANCELLED})


@dataclass(frozen=True, slots=True)
class EndedCall:
    """An upstream call that ended; instants are Unix seconds."""

    client_id: str
    key: str
    account: str
    upstream_model: str
    outcome: str
    started_at: float
    finished_at: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Sender:
    """The route that a call took."""

    account: str
    key: str
    upstream_model: str


@dataclass(frozen=True, slots=True)
class Sent:
    """Calls and tokens sent in the last 60 s that have ended."""

    calls: int = 0
    tokens: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.calls + other.calls, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Second:
    """Calls that ended within one second."""

    at: int  # Unix seconds
    done: int = 0
    refused: int = 0
    failed: int = 0


def kind_of(outcome: str) -> Kind | None:
    """How an outcome is counted; None for a call that was never made."""
    if outcome in _NOT_SENT:
        return None
    if outcome == Outcome.SUCCEEDED:
        return "done"
    return "refused" if outcome in REFUSED else "failed"


@dataclass(slots=True)
class Pace:
    """Counts by the second; memory is bounded by SPAN, clients and keys."""

    _ended: dict[int, Counter[tuple[str, Kind]]] = field(default_factory=dict)
    _calls: dict[int, Counter[Sender]] = field(default_factory=dict)
    _tokens: dict[int, Counter[Sender]] = field(default_factory=dict)

    def add(self, calls: Iterable[EndedCall]) -> None:
        """Count ended calls."""
        for call in calls:
            kind = kind_of(call.outcome)
            if kind is None:
                continue
            self._ended.setdefault(int(call.finished_at), Counter())[call.client_id, kind] += 1
            sender = Sender(call.account, call.key, call.upstream_model)
            self._calls.setdefault(int(call.started_at), Counter())[sender] += 1
            self._tokens.setdefault(int(call.started_at), Counter())[sender] += call.tokens

    def forget(self, now: float) -> None:
        """Drop counts that are too old."""
        for counts, span in (
            (self._ended, KEPT_SECONDS),
            (self._calls, SENT_SPAN),
            (self._tokens, SENT_SPAN),
        ):
            for second in [second for second in counts if second < now - span - 1]:
                del counts[second]

    def seconds(self, client_id: str | None, now: float) -> list[Second]:
        """The last SPAN whole seconds, oldest first; None: of all clients."""
        return [self._second(at, client_id) for at in range(int(now) - KEPT_SECONDS, int(now))]

    def sent(self, now: float) -> Mapping[Sender, Sent]:
        """Calls and tokens of the last 60 s by route, of ended calls."""
        found: dict[Sender, Sent] = {}
        for counts, of in ((self._calls, _calls), (self._tokens, _tokens)):
            for second, senders in counts.items():
                if second >= now - SENT_SPAN:
                    for sender, count in senders.items():
                        found[sender] = found.get(sender, Sent()) + of(count)
        return found

    def _second(self, at: int, client_id: str | None) -> Second:
        sums: Counter[Kind] = Counter()
        for (client, kind), count in self._ended.get(at, {}).items():
            if client_id is None or client == client_id:
                sums[kind] += count
        return Second(at, sums["done"], sums["refused"], sums["failed"])


def per_second(seconds: Iterable[Second], over: int = 10) -> float:
    """Tasks done per second, over the last `over` seconds given."""
    last = list(seconds)[-over:]
    return sum(second.done for second in last) / len(last) if last else 0.0


def _calls(count: int) -> Sent:
    return Sent(calls=count)


def _tokens(count: int) -> Sent:
    return Sent(tokens=count)


@dataclass(slots=True)
class Forecast:
    """When batches will be done, from their recent progress. Memory is bounded by the number of batches."""

    _seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def look(self, batch_id: str, ended: int, now: float) -> None:
        """Record how many of a batch's tasks have ended."""
        marks = self._seen.setdefault(batch_id, deque(maxlen=120))
        if not marks or marks[-1][1] != ended or now - marks[-1][0] >= 1:
            marks.append((now, ended))
        while len(marks) > 2 and marks[0][0] < now - KEPT_SECONDS:
            marks.popleft()

    def done_at(
        self, batch_id: str, begun_at: float | None, ended: int, total: int, now: float
    ) -> float | None:
        """When the rest will be done, at the rate of the last two minutes or else of its whole run."""
        if ended >= total:
            return None
        marks = self._seen.get(batch_id)
        if marks and now - marks[0][0] >= 5 and ended > marks[0][1]:
            pace = (ended - marks[0][1]) / (now - marks[0][0])
        elif begun_at is not None and ended and now > begun_at:
            pace = ended / (now - begun_at)
        else:
            return None
        return now + (total - ended) / pace

    def keep(self, batch_ids: Iterable[str]) -> None:
        """Forget all other batches."""
        wanted = set(batch_ids)
        for batch_id in [name for name in self._seen if name not in wanted]:
            del self._seen[batch_id]


WINDOW_SECONDS = 300.0  # seconds that are kept
FEWEST = 20  # with fewer calls, a share is not evaluated
_BIN = 0.1  # seconds
_MOST_BIN = 6000  # what takes longer than ten minutes counts as ten

_REFUSALS = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})
_NO_CALL = frozenset({Outcome.RETURNED, Outcome.CANCELLED})
# Faults of a request, not of the upstream.
_REQUEST = frozenset({Outcome.INVALID_REQUEST, Outcome.CONTENT_REFUSED, Outcome.CONTEXT_TOO_LONG})


@dataclass(slots=True)
class _Second:
    calls: int = 0
    errors: int = 0  # no result, no refusal (429, 503) and no fault of the request
    overloaded: int = 0
    refused: int = 0
    successes: int = 0
    overheads: Counter[int] = field(default_factory=Counter)  # by tenths of a second
    responses: dict[str, Counter[int]] = field(default_factory=dict)  # the same of successes, by model


class CallWindow:
    """Memory is bounded by SPAN."""

    def __init__(self) -> None:
        self._seconds: dict[int, _Second] = {}
        self.last_success_at = 0.0

    def add(
        self, outcome: str, at: float, overhead: float | None, model: str = "", took: float = 0.0
    ) -> None:
        """Count a call that ended at `at`; `overhead`: seconds from its release to its start, `took`: of the call."""
        if outcome in _NO_CALL:
            return
        second = self._seconds.setdefault(int(at), _Second())
        second.calls += 1
        second.successes += outcome == Outcome.SUCCEEDED
        second.overloaded += outcome == Outcome.OVERLOADED
        second.refused += outcome in _REFUSALS
        second.errors += outcome != Outcome.SUCCEEDED and outcome not in _REFUSALS | _REQUEST
        if overhead is not None:
            second.overheads[_bin(overhead)] += 1
        if outcome == Outcome.SUCCEEDED:
            second.responses.setdefault(model, Counter())[_bin(took)] += 1
            self.last_success_at = max(self.last_success_at, at)

    def forget(self, now: float) -> None:
        """Drop counts that are too old."""
        for second in [second for second in self._seconds if second < now - WINDOW_SECONDS]:
            del self._seconds[second]

    def error_rate(self, now: float, span: float = 60.0) -> float:
        """The share of failed calls in the last `span` seconds."""
        found = self._sum(now, span)
        return found.errors / found.calls if found.calls >= FEWEST else 0.0

    def overloaded_rate(self, now: float, span: float = 60.0) -> float:
        """The share of calls answered with 503."""
        found = self._sum(now, span)
        return found.overloaded / found.calls if found.calls >= FEWEST else 0.0

    def failure_rate(self, now: float, span: float = WINDOW_SECONDS) -> float:
        """The share of calls without a result among those answered, not counting refusals."""
        found = self._sum(now, span)
        answered = found.calls - found.refused
        return 1 - found.successes / answered if answered >= FEWEST else 0.0

    def overhead_p99(self, now: float, span: float = WINDOW_SECONDS) -> float:
        """The 99th percentile of the time from release to start, to a tenth of a second."""
        return _percentile(self._sum(now, span).overheads, 0.99)

    def refusal_rate(self, now: float, span: float = 60.0) -> float:
        """The share of calls refused with 429 or 503."""
        found = self._sum(now, span)
        return found.refused / found.calls if found.calls >= FEWEST else 0.0

    def response(self, now: float, share: float, span: float = WINDOW_SECONDS) -> dict[str, float]:
        """The percentile of successful calls' seconds, by upstream model, to a tenth of a second."""
        return {model: _percentile(bins, share) for model, bins in self._sum(now, span).responses.items()}

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
                for model, bins in second.responses.items():
                    total.responses.setdefault(model, Counter()).update(bins)
        return total


def _bin(seconds: float) -> int:
    return min(_MOST_BIN, int(max(0.0, seconds) / _BIN))


def _percentile(bins: Counter[int], share: float) -> float:
    """Seconds; 0 of too few."""
    left = bins.total() * (1 - share)
    for number in sorted(bins, reverse=True) if bins.total() >= FEWEST else ():
        left -= bins[number]
        if left < 0:
            return number * _BIN
    return 0.0
