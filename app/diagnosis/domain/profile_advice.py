"""Advice derived from recorded calls and prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from app.diagnosis.domain.time_split import Part, QuotaLimit, Split, TaskTiming

_MUCH = 0.25  # of all time: reported
_SOME = 0.05
_ENOUGH_CALLS = 50  # with fewer, no advice
_ENOUGH_ANSWERS = 20
_DEAD = 0.9  # share of a key's calls that failed
_ROOM = 2.0  # max_tokens as a multiple of the longest answer
MOST_REPEATS = 20
SHOWN = 60  # characters of a prompt


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


def advice(
    found: Split,
    trips: Sequence[TaskTiming],
    limits: Mapping[str, QuotaLimit],
    keys: Sequence[str],
    asked: Sequence[AskedPrompt],
) -> list[str]:
    """Advice as sentences, the most useful first. `keys` are the configured keys."""
    return [
        *_limits_to_raise(found, limits),
        *_slow_parts(found),
        *_dead_keys(trips, keys),
        *_tokens_never_reached(asked),
        *_worth_caching(repeats(asked)),
    ]


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


def _limits_to_raise(found: Split, limits: Mapping[str, QuotaLimit]) -> list[str]:
    said = []
    for held in found.held_back:
        share = held.seconds / found.total if found.total else 0.0
        if share < _SOME:
            continue
        limit = limits[held.quota]
        value = {"rpm": limit.rpm, "tpm": limit.tpm, "concurrency": limit.concurrency}[held.figure]
        source = "configured" if limit.told else "learned"
        who = f"{'key' if limit.of_key else 'account'} {limit.owner}, model {limit.model}"
        said.append(
            f"{share:.0%} of all time is spent waiting for {held.figure} = {value:g} ({source}) of {who}: "
            + ("raise it in [[quota]] if the provider allows more, or " if limit.told else "")
            + "ask the provider for more, or add a key of another account to the tier."
        )
    return said


def _slow_parts(found: Split) -> list[str]:
    words = {
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
        Part.STARTING: (
            _SOME,
            "workers are slow to start released tasks: give them more CPU or start more",
        ),
        Part.RECORDING: (_SOME, "the database is slow to record results: penstock doctor"),
        Part.CALLBACK: (_MUCH, "receivers are slow or unreachable: penstock callbacks list"),
    }
    said = []
    for part, (much, hint) in words.items() if found.calls >= _ENOUGH_CALLS else ():
        share = found.seconds.get(part, 0.0) / found.total if found.total else 0.0
        if share >= much:
            said.append(f"{share:.0%} of all time goes into {part}: {hint}.")
    return said


def _dead_keys(trips: Sequence[TaskTiming], keys: Sequence[str]) -> list[str]:
    if len(trips) < _ENOUGH_CALLS:
        return []
    calls = Counter(trip.key for trip in trips)
    worked = Counter(trip.key for trip in trips if trip.outcome == "succeeded")
    idle = [key for key in keys if not calls[key]]
    dead = [key for key in keys if calls[key] >= _ENOUGH_ANSWERS and worked[key] <= (1 - _DEAD) * calls[key]]
    said = [
        f"Key {key} was never used: its tier may never be reached, or the key is not needed." for key in idle
    ]
    for key in dead:
        share = 1 - worked[key] / calls[key]
        said.append(f"Key {key} is of little use: {share:.0%} of its {calls[key]:,} calls failed.")
    return said


def _tokens_never_reached(asked: Sequence[AskedPrompt]) -> list[str]:
    groups: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for one in asked:
        if one.max_tokens is not None and one.answered is not None:
            groups[one.client, one.model, one.max_tokens].append(one.answered)
    said = []
    for (client, model, most), answers in sorted(groups.items()):
        if len(answers) >= _ENOUGH_ANSWERS and most >= _ROOM * max(answers):
            said.append(
                f"Client {client}, {model}: max_tokens = {most:,} is never reached (longest of {len(answers):,} "
                f"answers: {max(answers):,}). Lower it: until an answer is known, tpm and budgets reserve max_tokens."
            )
    return said


def _worth_caching(found: Sequence[RepeatedPrompt]) -> list[str]:
    uncached = [one for one in found if not one.uses_cache]
    if not uncached:
        return []
    times = sum(one.times - 1 for one in uncached)
    again = f"{times:,} call{'s' * (times > 1)} repeated an earlier prompt without using the cache"
    return [f'{again}: set "cache": {{"mode": "write"}} for these prompts, or temperature 0.']
