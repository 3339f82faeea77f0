"""Proposals derived from recorded calls and prompts: a value, and what it would bring.

Gains are upper bounds: they hold if nothing else limits, and if the next hours are like those looked at.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

from app.diagnosis.domain.finding import milliseconds
from app.diagnosis.domain.time_split import GroupTimes, LoweredLimit, Part, QuotaLimit, Split, TaskTiming
from app.platform.domain.money import amount

_MUCH = 0.25  # of all time: reported
_SOME = 0.05
_ENOUGH_CALLS = 50  # with fewer, no advice
_ENOUGH_ANSWERS = 20
_DEAD = 0.9  # share of a key's calls that failed
_ROOM = 2.0  # max_tokens as a multiple of the longest answer
_RAISED = 2.0  # a limit that holds back is proposed this much higher
_FASTER = 2.0  # a key of a later tier that answers so many times faster should stand first
_LONG_PROMPT = 8_000  # characters from which on gzip is worth the time
_PACKED, _SLOW_LINE = 0.7, 1.25e6  # share that gzip saves of text; bytes a second of 10 Mbit/s
_FIXED = 400  # characters; DeepSeek and OpenAI cache prefixes in steps of 64 and 128 tokens
_CHARACTERS = 4.0  # of a token, by the rule of thumb
MOST_REPEATS = 20
SHOWN = 60  # characters of a prompt


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to change. `setting`, `now` and `value` are empty where no figure follows from what was seen."""

    reason: str  # a sentence that says what was seen and what to do
    gain: str = ""
    setting: str = ""
    now: str = ""
    value: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.reason} Gain: {self.gain}." if self.gain else self.reason


@dataclass(frozen=True, slots=True)
class BatchPace:
    """A batch that was bounded by its batch_size, and ended or still runs."""

    id: str
    batch_size: int
    tasks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is configured and known besides the calls. `tiers`: of each model, (key, the upstream's model name)."""

    slots: int | None = None  # of one worker
    batches: Sequence[BatchPace] = ()
    tiers: Mapping[str, Sequence[Sequence[tuple[str, str]]]] = field(default_factory=dict)
    unpacked: Mapping[str, str] = field(default_factory=dict)  # upstreams that get plain bodies, by key


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """The prompt of a successful task. `fingerprint` is the same for equal requests of a client."""

    client: str
    model: str
    fingerprint: str
    shown: str  # the beginning of the prompt
    max_tokens: int | None
    answered: int | None  # tokens of the answer
    cost_picos: int | None
    currency: str
    uses_cache: bool
    characters: int = 0  # of the whole request
    text: str = ""  # of some of them: all that is sent, in order


@dataclass(frozen=True, slots=True)
class RepeatedPrompt:
    """A prompt that was sent several times."""

    client: str
    model: str
    fingerprint: str
    shown: str
    times: int
    uses_cache: bool
    spare_picos: int | None  # estimated cost of all repeats; None: unknown
    currency: str


def proposals(
    found: Split,
    trips: Sequence[TaskTiming],
    limits: Mapping[str, QuotaLimit],
    keys: Sequence[str],
    asked: Sequence[AskedPrompt],
    around: Circumstances = Circumstances(),
) -> list[Proposal]:
    """Proposals, the most useful first. `keys` are the configured keys."""
    minutes = _minutes(trips)
    return [
        *_limits_to_raise(found, limits),
        *_slow_parts(found, limits, around.slots),
        *_batch_sizes(found, around),
        *_tiers(found.groups, around),
        *_dead_keys(trips, keys),
        *_tokens_never_reached(asked, minutes),
        *_worth_caching(repeats(asked), found),
        *_fixed_parts_behind(asked, minutes),
        *_unpacked(asked, around),
    ]


def _minutes(trips: Sequence[TaskTiming]) -> float:
    """How long the calls took together, from the first to the last, at least a minute."""
    if not trips:
        return 1.0
    return max(1.0, (max(t.finished_at for t in trips) - min(t.started_at for t in trips)) / 60)


def repeats(asked: Iterable[AskedPrompt]) -> list[RepeatedPrompt]:
    """The 20 prompts sent most often, at least twice, by the same client for the same model."""
    groups: dict[tuple[str, str, str], list[AskedPrompt]] = defaultdict(list)
    for one in asked:
        groups[one.client, one.model, one.fingerprint].append(one)
    found = [_repeat(group) for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda one: (-one.times, one.fingerprint))[:MOST_REPEATS]


def _repeat(group: Sequence[AskedPrompt]) -> RepeatedPrompt:
    first = group[0]
    costs = [one.cost_picos for one in group if one.cost_picos is not None]
    spare = int(median(costs)) * (len(group) - 1) if costs else None
    cached = all(one.uses_cache for one in group)
    return RepeatedPrompt(
        first.client, first.model, first.fingerprint, first.shown, len(group), cached, spare, first.currency
    )


def _limits_to_raise(found: Split, limits: Mapping[str, QuotaLimit]) -> Iterator[Proposal]:
    for held in found.held_back:
        share = held.seconds / found.total if found.total else 0.0
        if share < _SOME:
            continue
        limit = limits[held.quota]
        value = {"rpm": limit.rpm, "tpm": limit.tpm, "concurrency": limit.concurrency}[held.figure] or 0.0
        source = "configured" if limit.configured else "learned"
        who = f"{'key' if limit.of_key else 'account'} {limit.owner}, model {limit.model}"
        reason = (
            f"{share:.0%} of all time is spent waiting for {held.figure} = {value:g} ({source}) of {who}: "
            + ("raise it in [[quota]] if the provider allows more, or " if limit.configured else "")
            + "ask the provider for more, or add a key of another account to the tier."
        )
        more = _tokens_a_minute(held.figure, value * (_RAISED - 1), found.groups)
        gain = f"with {value * _RAISED:g}, up to {more:,.0f} tokens a minute more" if more else ""
        saved = f"up to {milliseconds(held.seconds / held.calls)} less wait for each of {held.calls:,} calls"
        setting = f"[[quota]] {held.quota} {held.figure}"
        yield Proposal(
            reason, f"{gain}, {saved}" if gain else saved, setting, f"{value:g}", f"{value * _RAISED:g}"
        )


def _tokens_a_minute(figure: str, more: float, groups: Sequence[GroupTimes]) -> float:
    """Tokens that so much more of a figure lets through, at the size and duration of the calls looked at."""
    calls = sum(group.calls for group in groups) or 1
    tokens = sum(group.tokens for group in groups) / calls
    seconds = sum(group.took.p50 * group.calls for group in groups) / calls
    a_minute = {"rpm": more, "concurrency": more * 60 / seconds if seconds else 0.0}
    return more if figure == "tpm" else a_minute[figure] * tokens


_SLOW = {
    Part.SLOT: (
        _MUCH,
        "start more workers or raise [worker] concurrency; batches may also wait for their batch_size",
    ),
    Part.PAUSE: (
        _MUCH,
        "upstreams refused calls or failed: see penstock status; add a key of another account to the tier",
    ),
    Part.TURN: (
        _MUCH,
        "slots were free, so more workers would not help: check [pace], limits lowered at the time, batch_size",
    ),
    Part.CONNECTING: (_SOME, "check the connection to the provider: penstock doctor"),
    Part.STARTING: (_SOME, "workers are slow to start released tasks: give them more CPU or start more"),
    Part.RECORDING: (_SOME, "the database is slow to record results: penstock doctor"),
    Part.CALLBACK: (_MUCH, "receivers are slow or unreachable: penstock callbacks list"),
}


def _slow_parts(found: Split, limits: Mapping[str, QuotaLimit], slots: int | None) -> Iterator[Proposal]:
    for part, (much, hint) in _SLOW.items() if found.calls >= _ENOUGH_CALLS else ():
        seconds = found.seconds.get(part, 0.0)
        share = seconds / found.total if found.total else 0.0
        if share < much:
            continue
        reason = f"{share:.0%} of all time goes into {part}: {hint}."
        if part is Part.TURN:
            reason += "".join(_in_force(lowered, limits) for lowered in found.lowered[:3])
        gain = f"up to {milliseconds(seconds / found.calls)} a call"
        if part is Part.SLOT and slots:
            yield Proposal(reason, gain, "[worker] concurrency", f"{slots}", f"{round(slots * _RAISED)}")
        else:
            yield Proposal(reason, gain)


def _in_force(lowered: LoweredLimit, limits: Mapping[str, QuotaLimit]) -> str:
    mine = [one for one in limits.values() if not one.of_key and one.owner == lowered.account]
    known = next(
        (f"{one.rpm:g} rpm" for one in mine if one.rpm and one.model in ("*", lowered.model)), "no rpm"
    )
    return (
        f" In force for account {lowered.account}, model {lowered.model}: about {lowered.rpm:,.3g} a minute, at most "
        f"{lowered.concurrency} at once ({known} configured or learned now)."
    )


def _batch_sizes(found: Split, around: Circumstances) -> Iterator[Proposal]:
    free = found.seconds.get(Part.TURN, 0.0) + (0.0 if around.slots else found.seconds.get(Part.SLOT, 0.0))
    if not found.total or free / found.total < _SOME:
        return
    most = around.slots or math.inf
    for batch in sorted(around.batches, key=lambda one: -one.seconds)[:3]:
        proposed = min(most, batch.batch_size * _RAISED)
        if proposed <= batch.batch_size or batch.tasks <= batch.batch_size or batch.seconds < 1:
            continue
        saved = batch.seconds * (1 - batch.batch_size / proposed)
        yield Proposal(
            f"Batch {batch.id} ran at most {batch.batch_size:,} of its {batch.tasks:,} tasks at once while slots were "
            f"free: submit such batches with batch_size = {proposed:g}.",
            f"up to {saved:,.0f} of {batch.seconds:,.0f} seconds",
            "batch_size",
            f"{batch.batch_size}",
            f"{proposed:g}",
        )


def _tiers(groups: Sequence[GroupTimes], around: Circumstances) -> Iterator[Proposal]:
    """A key of a later tier that answers much faster, and no less reliably, than one before it."""
    known = {(group.key, group.model): group for group in groups if group.calls >= _ENOUGH_ANSWERS}
    for model, tiers in around.tiers.items():
        placed = [
            (number, known[route]) for number, tier in enumerate(tiers) for route in tier if route in known
        ]
        pairs = [(a, b) for n, a in placed for m, b in placed if m > n and _better(b, a)]
        if not pairs:
            continue
        slow, quick = max(pairs, key=lambda pair: pair[0].took.p50 - pair[1].took.p50)
        saved = slow.took.p50 - quick.took.p50
        yield Proposal(
            f"Model {model}: key {quick.key} of a later tier answers in {milliseconds(quick.took.p50)} (P50), key "
            f"{slow.key} before it in {milliseconds(slow.took.p50)}: put {quick.key} first, if its price suits you.",
            f"about {milliseconds(saved)} a call",
            f"[[model]] {model} tiers",
            f"{slow.key} before {quick.key}",
            f"{quick.key} before {slow.key}",
        )


def _better(one: GroupTimes, other: GroupTimes) -> bool:
    quicker = one.took.p50 * _FASTER <= other.took.p50
    return quicker and one.failed * other.calls <= other.failed * one.calls


def _dead_keys(trips: Sequence[TaskTiming], keys: Sequence[str]) -> Iterator[Proposal]:
    if len(trips) < _ENOUGH_CALLS:
        return
    calls = Counter(trip.key for trip in trips)
    worked = Counter(trip.key for trip in trips if trip.outcome == "succeeded")
    for key in keys:
        if not calls[key]:
            yield Proposal(
                f"Key {key} was never used: its tier may never be reached, or the key is not needed."
            )
    for key in keys:
        if calls[key] >= _ENOUGH_ANSWERS and worked[key] <= (1 - _DEAD) * calls[key]:
            share = 1 - worked[key] / calls[key]
            lost = sum(trip.finished_at - trip.started_at for trip in trips if trip.key == key)
            yield Proposal(
                f"Key {key} is of little use: {share:.0%} of its {calls[key]:,} calls failed.",
                f"{lost:,.0f} seconds of failed calls",
            )


def _tokens_never_reached(asked: Sequence[AskedPrompt], minutes: float) -> Iterator[Proposal]:
    groups: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for one in asked:
        if one.max_tokens is not None and one.answered is not None:
            groups[one.client, one.model, one.max_tokens].append(one.answered)
    for (client, model, most), answers in sorted(groups.items()):
        if len(answers) < _ENOUGH_ANSWERS or most < _ROOM * max(answers):
            continue
        proposed = min(most, 16 * math.ceil(1.5 * max(answers) / 16) or 16)
        freed = (most - proposed) * len(answers) / minutes
        yield Proposal(
            f"Client {client}, {model}: max_tokens = {most:,} is never reached (longest of {len(answers):,} "
            f"answers: {max(answers):,}). Lower it to {proposed:,}: until an answer is known, tpm and budgets reserve "
            "max_tokens.",
            f"{freed:,.0f} tokens a minute are no longer reserved",
            "max_tokens",
            f"{most}",
            f"{proposed}",
        )


def _worth_caching(found: Sequence[RepeatedPrompt], times: Split) -> Iterator[Proposal]:
    uncached = [one for one in found if not one.uses_cache]
    if not uncached:
        return
    again = sum(one.times - 1 for one in uncached)
    spare: Counter[str] = Counter()
    for one in uncached:
        spare[one.currency] += one.spare_picos or 0
    calls = sum(group.calls for group in times.groups)
    seconds = sum(group.took.p50 * group.calls for group in times.groups) / calls if calls else 0.0
    gains = [f"{amount(picos)} {currency}" for currency, picos in sorted(spare.items()) if picos]
    gains += [f"{again * seconds:,.1f} seconds of calls"] if seconds else []
    yield Proposal(
        f"{again:,} call{'s' * (again > 1)} repeated an earlier prompt without using the cache: "
        'set "cache": {"mode": "write"} for these prompts, or temperature 0.',
        " and ".join(gains),
        "cache",
        "unused",
        '{"mode": "write"}',
    )


def _fixed_parts_behind(asked: Sequence[AskedPrompt], minutes: float) -> Iterator[Proposal]:
    """Prompts that end alike but begin differently: providers cache equal beginnings only."""
    groups: dict[tuple[str, str], list[AskedPrompt]] = defaultdict(list)
    for one in asked:
        groups[one.client, one.model].append(one)
    for (client, model), ones in sorted(groups.items()):
        texts = list(dict.fromkeys(one.text for one in ones if one.text))
        if len(texts) < _ENOUGH_ANSWERS // 2:
            continue
        fixed = median(_alike(a[::-1], b[::-1]) for a, b in pairwise(texts))
        before = median(_alike(a, b) for a, b in pairwise(texts))
        if fixed < _FIXED or before * 2 > fixed or fixed * 2 < fmean(map(len, texts)):
            continue
        tokens = fixed / _CHARACTERS
        yield Proposal(
            f"Client {client}, {model}: prompts end with the same {fixed:,.0f} characters but begin differently. "
            "Put the part that never changes first (system message, then examples): providers cache equal beginnings.",
            f"up to {tokens * len(ones) / minutes:,.0f} prompt tokens a minute at the price of cached ones",
            "order of the prompt",
            "changing part first",
            "fixed part first",
        )


def _alike(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    shortest = min(len(one), len(other))
    return next((at for at in range(shortest) if one[at] != other[at]), shortest)


def _unpacked(asked: Sequence[AskedPrompt], around: Circumstances) -> Iterator[Proposal]:
    """Long prompts to upstreams whose requests are not compressed."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for one in asked:
        routes = (route for tier in around.tiers.get(one.model, ()) for route in tier)
        for upstream in {around.unpacked[key] for key, _ in routes if key in around.unpacked}:
            sizes[upstream].append(one.characters)
    for upstream, characters in sorted(sizes.items()):
        mean = fmean(characters)
        if len(characters) < _ENOUGH_ANSWERS or mean < _LONG_PROMPT:
            continue
        saved = mean * _PACKED
        yield Proposal(
            f"Upstream {upstream}: requests of {mean / 1000:,.0f} kB are sent uncompressed: set gzip = true, if it "
            "accepts compressed requests (a 415 says that it does not).",
            f"about {saved / 1000:,.0f} kB a call, {milliseconds(saved / _SLOW_LINE)} on a line of 10 Mbit/s",
            f"[[upstream]] {upstream} gzip",
            "false",
            "true",
        )
