"""Where tasks spend their time: the instants of each call, split into parts, and why it waited before its release.

Instants are Unix seconds. What delayed a call is not recorded at its release; it is inferred from the other calls:

1. From a refusal or failure until the next release of the same account and model, if that takes much longer than usual,
   the call waited for a pause or a breaker.
2. A quota that was nearly used up at the release delayed it.
3. Otherwise it waited for a worker's free slot or for other clients and batches; if slots were free, for other clients,
   an adaptive rate or a limit that was lower then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from statistics import median

from app.diagnosis.domain.percentiles import Percentiles, percentiles

WAITED = 0.25  # seconds: what is released sooner was held back by nothing
NEARLY = 0.8  # of a figure in use: it holds back
LONGER = 3.0  # times the usual time between two releases: a pause
WINDOW = 5.0  # seconds over which a pace is looked at; a bucket lets its calls through evenly


class Part(StrEnum):
    """What a task's time goes into, in order."""

    QUOTA = "waiting for a quota"
    SLOT = "waiting for a slot or its turn"
    STARTING = "released, being started"
    CONNECTING = "connecting"
    FIRST_BYTE = "waiting for the first byte"
    BODY = "reading the answer"
    RECORDING = "recording"
    CALLBACK = "callback"
    PAUSE = "waiting for a pause or a breaker"
    TURN = "waiting for its turn, a pace or a lower limit"


_ONCE_SEEN = frozenset({Part.PAUSE, Part.TURN})  # left out where there is none
_REFUSED = frozenset({"rate_limited", "overloaded", "unavailable", "timed_out", "malformed"})


@dataclass(frozen=True, slots=True)
class TaskTiming:
    """One upstream call of a task."""

    client: str
    model: str  # the upstream's name of it
    key: str
    account: str
    outcome: str
    ready_at: float | None
    released_at: float | None
    started_at: float
    sent_at: float | None
    first_byte_at: float | None
    finished_at: float
    recorded_at: float | None
    tokens: int = 0

    @property
    def waited(self) -> float:
        """Seconds from being ready to run until its release."""
        return _between(self.ready_at, self.released_at)

    def parts(self) -> dict[Part, float]:
        """Seconds by part, from its release on; what is not known is left out."""
        body_from = self.first_byte_at or self.finished_at
        first_from = self.sent_at if self.sent_at is not None else self.started_at
        return {
            Part.STARTING: _between(self.released_at, self.started_at),
            Part.CONNECTING: _between(self.started_at, self.sent_at),
            Part.FIRST_BYTE: _between(first_from, body_from),
            Part.BODY: _between(body_from, self.finished_at),
            Part.RECORDING: _between(self.finished_at, self.recorded_at),
        }


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """A quota's limits in force; None: none. `owner` is an account or key; `model` may be `*`."""

    id: str
    owner: str
    of_key: bool
    model: str
    rpm: float | None = None
    tpm: float | None = None
    concurrency: float | None = None
    configured: bool = True

    def covers(self, trip: TaskTiming) -> bool:
        """Whether a call has to pass it."""
        owner = trip.key if self.of_key else trip.account
        return owner == self.owner and self.model in ("*", trip.model)


@dataclass(frozen=True, slots=True)
class WaitSegment:
    """Seconds that calls waited for one figure of a quota."""

    quota: str
    figure: str  # rpm, tpm, concurrency
    seconds: float
    calls: int


@dataclass(frozen=True, slots=True)
class LoweredLimit:
    """What an account released of a model while worker slots and its quotas had room: the figures in force then."""

    account: str
    model: str
    rpm: float  # calls a minute that came through
    concurrency: int  # at most at once
    seconds: float  # that calls waited
    calls: int


@dataclass(frozen=True, slots=True)
class GroupTimes:
    """Calls of one model by one key. Network and inference are None where the way to the upstream is not measured."""

    model: str
    key: str
    calls: int
    failed: int
    tokens: int
    waited: Percentiles
    took: Percentiles  # from the claim to the end of the call
    network: Percentiles | None  # connecting, and one round trip
    inference: Percentiles | None  # the rest of the call, without that round trip


@dataclass(frozen=True, slots=True)
class Split:
    """Seconds by part over all calls looked at, and the quotas that held them back, the worst first."""

    calls: int
    seconds: Mapping[Part, float]
    held_back: tuple[WaitSegment, ...] = ()
    spread: Mapping[Part, Percentiles] = field(default_factory=dict)  # of each call's seconds
    groups: tuple[GroupTimes, ...] = ()  # by model and key, the most calls first
    lowered: tuple[LoweredLimit, ...] = ()  # those that held calls back longest first

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.seconds.values())


def split(
    blocks: Sequence[Sequence[TaskTiming]],
    limits: Sequence[QuotaLimit],
    callback_seconds: float = 0.0,
    slots: int | None = None,
    round_trips: Mapping[str, float] | None = None,
) -> Split:
    """Split the time of calls. Each block holds calls that followed one another without a gap.

    `slots` are those of one worker: while fewer calls ran, none was waited for. `round_trips`: seconds to the upstream
    and back, by key, where known.
    """
    ledger = _Ledger()
    for block in blocks:
        ledger.add(block, limits, slots)
    seconds = {part: 0.0 for part in Part if part not in _ONCE_SEEN}
    seconds |= {part: sum(values) for part, values in ledger.values.items()}
    seconds[Part.CALLBACK] = callback_seconds
    found = [WaitSegment(*cause, sum(waits), len(waits)) for cause, waits in ledger.held.items()]
    count = sum(map(len, blocks))
    return Split(
        count,
        seconds,
        tuple(sorted(found, key=lambda one: -one.seconds)),
        {part: percentiles(values, count) for part, values in ledger.values.items()},
        _groups(blocks, round_trips or {}),
        tuple(sorted(ledger.lowered, key=lambda one: -one.seconds)),
    )


class _Ledger:
    """What has been counted, block by block."""

    def __init__(self) -> None:
        self.values: dict[Part, list[float]] = defaultdict(list)  # seconds of single calls, zeros left out
        self.held: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.lowered: list[LoweredLimit] = []

    def add(self, block: Sequence[TaskTiming], limits: Sequence[QuotaLimit], slots: int | None) -> None:
        """Count the calls of one block."""
        uses = [_Use(limit, [trip for trip in block if limit.covers(trip)]) for limit in limits]
        workers = _Use(QuotaLimit("", "", of_key=False, model="*", concurrency=slots), block)
        pauses = _pauses(block)
        turns: list[TaskTiming] = []
        for trip in block:
            for part, share in trip.parts().items():
                self._count(part, share)
            paused = min(trip.waited, pauses[trip.account, trip.model].overlap(trip))
            waited = trip.waited - paused
            cause = _cause(trip, uses) if trip.waited > WAITED else None
            part = Part.QUOTA if cause else _SLOT_OR_TURN[workers.had_room(trip)]
            self._count(Part.PAUSE, paused)
            self._count(part, waited)
            if cause and waited:
                self.held[cause].append(waited)
            if part is Part.TURN and waited:
                turns.append(trip)
        self.lowered += _lowered(block, turns)

    def _count(self, part: Part, seconds: float) -> None:
        if seconds:
            self.values[part].append(seconds)


_FEW = 5  # calls: too few to show a rate


def _lowered(block: Sequence[TaskTiming], turns: Sequence[TaskTiming]) -> Iterator[LoweredLimit]:
    """What came through of each account and model whose calls waited although there was room for them."""
    groups: dict[tuple[str, str], list[TaskTiming]] = defaultdict(list)
    for trip in turns:
        groups[trip.account, trip.model].append(trip)
    for (account, model), waiting in groups.items():
        released = sorted(map(_released, waiting))
        if len(waiting) < _FEW or released[-1] <= released[0]:
            continue
        alike = [trip for trip in block if (trip.account, trip.model) == (account, model)]
        mine = _Use(QuotaLimit("", account, of_key=False, model=model), alike)
        gap = max(median([late - early for early, late in pairwise(released)]), 1e-6)
        most = max(mine.flight_at(at) for at in released)
        yield LoweredLimit(account, model, 60 / gap, most, sum(trip.waited for trip in waiting), len(waiting))


def _groups(
    blocks: Sequence[Sequence[TaskTiming]], round_trips: Mapping[str, float]
) -> tuple[GroupTimes, ...]:
    groups: dict[tuple[str, str], list[TaskTiming]] = defaultdict(list)
    for block in blocks:
        for trip in block:
            groups[trip.model, trip.key].append(trip)
    found = [_group(model, key, trips, round_trips.get(key)) for (model, key), trips in groups.items()]
    return tuple(sorted(found, key=lambda one: (-one.calls, one.model, one.key)))


def _group(model: str, key: str, trips: Sequence[TaskTiming], round_trip: float | None) -> GroupTimes:
    sent = [trip for trip in trips if trip.sent_at is not None] if round_trip is not None else []
    way = round_trip or 0.0
    return GroupTimes(
        model,
        key,
        len(trips),
        sum(trip.outcome != "succeeded" for trip in trips),
        sum(trip.tokens for trip in trips),
        percentiles([trip.waited for trip in trips]),
        percentiles([_between(trip.started_at, trip.finished_at) for trip in trips]),
        percentiles([_between(t.started_at, t.sent_at) + way for t in sent]) if sent else None,
        percentiles([max(0.0, _between(t.sent_at, t.finished_at) - way) for t in sent]) if sent else None,
    )


class _Use:
    """How much of a quota was in use at an instant, as far as a block of calls shows."""

    def __init__(self, limit: QuotaLimit, trips: Sequence[TaskTiming]) -> None:
        self.limit = limit
        ordered = sorted(trips, key=_released)
        self._released = [_released(trip) for trip in ordered]
        self._finished = sorted(trip.finished_at for trip in trips)
        self._tokens = [0]
        for trip in ordered:
            self._tokens.append(self._tokens[-1] + trip.tokens)

    def had_room(self, trip: TaskTiming) -> bool:
        """Whether a call was held back although the figure left room; False where nothing is known of it."""
        most = self.limit.concurrency
        return most is not None and trip.waited > WAITED and self.figure_at(_released(trip)) is None

    def flight_at(self, at: float) -> int:
        """Calls that were released and had not ended at an instant."""
        return bisect_right(self._released, at) - bisect_right(self._finished, at)

    def figure_at(self, at: float) -> str | None:
        """The figure that was nearly used up at an instant; None when none was."""
        before, upto = bisect_left(self._released, at - WINDOW), bisect_right(self._released, at)
        used = {
            "concurrency": (self.flight_at(at), self.limit.concurrency),
            "rpm": (upto - before, _in_window(self.limit.rpm)),
            "tpm": (self._tokens[upto] - self._tokens[before], _in_window(self.limit.tpm)),
        }
        return next((name for name, (use, most) in used.items() if most and use >= NEARLY * most), None)


_SLOT_OR_TURN = {False: Part.SLOT, True: Part.TURN}


class _Pauses:
    """When an account released nothing of a model after it had been refused, or had failed."""

    def __init__(self, trips: Sequence[TaskTiming]) -> None:
        released = sorted(map(_released, trips))
        usual = median([b - a for a, b in pairwise(released)]) if len(released) > 1 else 0.0
        self._ends: list[float] = []
        self._lengths: list[float] = []
        self._before = [0.0]  # seconds of all pauses before each
        for at in sorted(trip.finished_at for trip in trips if trip.outcome in _REFUSED):
            index = bisect_right(released, at)
            if index < len(released) and (not self._ends or self._ends[-1] < released[index]):
                self._add(at, released[index], max(WAITED, LONGER * usual))

    def _add(self, begun: float, ended: float, least: float) -> None:
        if ended - begun > least:
            self._ends.append(ended)
            self._lengths.append(ended - begun)
            self._before.append(self._before[-1] + ended - begun)

    def overlap(self, trip: TaskTiming) -> float:
        """Seconds of pauses in which a call waited."""
        if trip.ready_at is None:
            return 0.0
        return self._until(_released(trip)) - self._until(trip.ready_at)

    def _until(self, at: float) -> float:
        index = bisect_right(self._ends, at)
        if index == len(self._ends):
            return self._before[index]
        begun = self._ends[index] - self._lengths[index]
        return self._before[index] + max(0.0, at - begun)


def _pauses(block: Sequence[TaskTiming]) -> Mapping[tuple[str, str], _Pauses]:
    """By account and model."""
    groups: dict[tuple[str, str], list[TaskTiming]] = defaultdict(list)
    for trip in block:
        groups[trip.account, trip.model].append(trip)
    return {name: _Pauses(trips) for name, trips in groups.items()}


def _cause(trip: TaskTiming, uses: Sequence[_Use]) -> tuple[str, str] | None:
    for use in uses:
        if use.limit.covers(trip) and (figure := use.figure_at(_released(trip))) is not None:
            return use.limit.id, figure
    return None


def _in_window(per_minute: float | None) -> float | None:
    """What a pace lets through in the window; a pace too slow for it is used up by one call."""
    return None if per_minute is None else max(1.0, per_minute * WINDOW / 60)


def _released(trip: TaskTiming) -> float:
    return trip.started_at if trip.released_at is None else trip.released_at


def _between(early: float | None, late: float | None) -> float:
    return max(0.0, late - early) if early is not None and late is not None else 0.0
