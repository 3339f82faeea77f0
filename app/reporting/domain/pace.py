"""How fast things go: what ended in the last minutes, what was sent in the last 60 s, when a batch will be done."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.tasks.domain.attempt import Outcome

Kind = Literal["done", "refused", "failed"]
SPAN = 120  # seconds that are kept
SENT_SPAN = 60  # seconds: what "per minute" is counted over

_REFUSED = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED})
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
    """By what a call was sent."""

    account: str
    key: str
    upstream_model: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent in the last 60 s and has ended."""

    calls: int = 0
    tokens: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.calls + other.calls, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Second:
    """What ended within one second."""

    at: int  # Unix seconds
    done: int = 0
    refused: int = 0
    failed: int = 0


def kind_of(outcome: str) -> Kind | None:
    """How an end is counted; None for a call that was never made."""
    if outcome in _NOT_SENT:
        return None
    if outcome == Outcome.SUCCEEDED:
        return "done"
    return "refused" if outcome in _REFUSED else "failed"


@dataclass(slots=True)
class Pace:
    """Counts by the second; memory is bounded by SPAN, clients and keys."""

    _ended: dict[int, Counter[tuple[str, Kind]]] = field(default_factory=dict)
    _calls: dict[int, Counter[Sender]] = field(default_factory=dict)
    _tokens: dict[int, Counter[Sender]] = field(default_factory=dict)

    def add(self, calls: Iterable[EndedCall]) -> None:
        """Count calls that ended."""
        for call in calls:
            kind = kind_of(call.outcome)
            if kind is None:
                continue
            self._ended.setdefault(int(call.finished_at), Counter())[call.client_id, kind] += 1
            sender = Sender(call.account, call.key, call.upstream_model)
            self._calls.setdefault(int(call.started_at), Counter())[sender] += 1
            self._tokens.setdefault(int(call.started_at), Counter())[sender] += call.tokens

    def forget(self, now: float) -> None:
        """Drop what is too old."""
        for counts, span in ((self._ended, SPAN), (self._calls, SENT_SPAN), (self._tokens, SENT_SPAN)):
            for second in [second for second in counts if second < now - span - 1]:
                del counts[second]

    def seconds(self, client_id: str | None, now: float) -> list[Second]:
        """The last SPAN whole seconds, oldest first; None: of all clients."""
        return [self._second(at, client_id) for at in range(int(now) - SPAN, int(now))]

    def sent(self, now: float) -> Mapping[Sender, Sent]:
        """What was sent in the last 60 s, as far as it has ended."""
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
    """When batches will be done, by how they advanced lately. Memory is bounded by the batches looked at."""

    _seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def look(self, batch_id: str, ended: int, now: float) -> None:
        """Note how many of a batch's tasks have ended."""
        marks = self._seen.setdefault(batch_id, deque(maxlen=120))
        if not marks or marks[-1][1] != ended or now - marks[-1][0] >= 1:
            marks.append((now, ended))
        while len(marks) > 2 and marks[0][0] < now - SPAN:
            marks.popleft()

    def done_at(
        self, batch_id: str, begun_at: float | None, ended: int, total: int, now: float
    ) -> float | None:
        """When the rest will have ended at the pace of the last two minutes, else of its whole life."""
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
