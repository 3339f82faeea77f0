"""Say where the time of tasks goes, and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from app.caching.domain.caching import cache_key, client_scope
from app.diagnosis.domain.profile_advice import SHOWN, AskedPrompt, RepeatedPrompt, advice, repeats
from app.diagnosis.domain.time_split import QuotaLimit, Split, split
from app.diagnosis.store import profiling
from app.pacing.domain.tokens import answer_limit
from app.pacing.store.leader_state import load_learned
from app.platform.database import Database
from app.platform.domain.money import NO_SUM
from app.platform.encryption import Unsealable
from app.settings.domain.routing import Topology

_FIGURES = {"rpm": ("pace", 60.0), "tpm": ("tokens", 60.0), "concurrency": ("calls", 1.0)}  # learned ones


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How much there was, and how much of it was looked at."""

    rows: int
    read: int
    sampled: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A profile. `repeats` shows prompts, shortened: for the operator's eyes."""

    since: float
    until: float
    split: Split
    calls: SampleSize
    prompts: SampleSize
    advice: Sequence[str]
    repeats: Sequence[RepeatedPrompt]
    sealed: bool  # prompts are encrypted by a key that is not here: they could not be compared


class ProfileTasks:
    """The use case. Reads bounded ranges, block by block, so that no snapshot is held for long."""

    def __init__(self, database: Database, topology: Topology, slots: int | None = None) -> None:
        """`slots` are those of one worker."""
        self._database = database
        self._slots = slots
        self._topology = topology

    def report(self, since: float, until: float) -> Report:
        """What has ended since an instant. Raises DatabaseUnreachable."""
        read = self._database.read
        span = read(partial(profiling.attempts_since, since=since))
        blocks = [read(partial(profiling.trips, block=block, since=since)) for block in span.blocks()]
        trips = [trip for block in blocks for trip in block]
        limits = limits_of(self._topology, read(load_learned))
        share = span.rows / len(trips) if span.sampled and trips else 1.0
        found = split(blocks, limits, self._callbacks(since) / share, self._slots)
        asked, prompts, sealed = self._asked(since)
        return Report(
            since,
            until,
            found,
            SampleSize(span.rows if span.sampled else len(trips), len(trips), span.sampled),
            prompts,
            advice(found, trips, {limit.id: limit for limit in limits}, self._topology.keys, asked),
            repeats(asked),
            sealed,
        )

    def _callbacks(self, since: float) -> float:
        """Seconds that callbacks took, all of them: a sample stands for the rest."""
        read = self._database.read
        span = read(partial(profiling.callbacks_since, since=since))
        blocks = span.blocks()
        seconds = [read(partial(profiling.callback_seconds, block=block, since=since)) for block in blocks]
        return sum(seconds) * (span.rows / span.most if span.sampled else 1.0)

    def _asked(self, since: float) -> tuple[list[AskedPrompt], SampleSize, bool]:
        read = self._database.read
        span = read(partial(profiling.tasks_since, since=since))
        asked: list[AskedPrompt] = []
        try:
            for block in span.blocks():
                asked += _read(read(partial(profiling.prompts, block=block, since=since)))
        except Unsealable:
            return [], SampleSize(span.rows, 0, span.sampled), True
        return asked, SampleSize(span.rows, len(asked), span.sampled), False


def limits_of(topology: Topology, learned: Mapping[str, Mapping[str, Any]]) -> list[QuotaLimit]:
    """Told figures, and learned ones where none are told."""
    ids = dict.fromkeys([*topology.quotas, *learned])
    return [limit for name in ids if (limit := _limit(name, topology, learned.get(name, {}))) is not None]


def _limit(name: str, topology: Topology, learned: Mapping[str, Any]) -> QuotaLimit | None:
    kind, _, rest = name.partition(":")
    owner, _, model = rest.partition(":")
    told = topology.quotas.get(name)
    if kind not in ("account", "key") or not model:  # more than quotas is learned
        return None
    if told is not None and (told.rpm or told.tpm or told.concurrency):
        return QuotaLimit(name, owner, kind == "key", model, told.rpm, told.tpm, told.concurrency)
    figures = learned.get("figures", {})
    known = {
        figure: float(figures[theirs]["level"]) * factor
        for figure, (theirs, factor) in _FIGURES.items()
        if theirs in figures
    }
    return QuotaLimit(name, owner, kind == "key", model, told=False, **known) if known else None


def _read(rows: Sequence[Any]) -> Iterator[AskedPrompt]:
    for row in rows:
        try:
            request = orjson.loads(row.request)
            key = cache_key(client_scope(row.client_id), row.model, "", request)
        except (orjson.JSONDecodeError, ValueError, AttributeError):  # erased
            continue
        yield AskedPrompt(
            row.client_id,
            row.model,
            key.rpartition(":")[2],
            _shown(request),
            _most(request),
            row.completion_tokens,
            row.cost_picos if row.currency not in (None, NO_SUM) else None,
            row.currency or "",
            row.cache_key is not None and row.cache_look,
        )


def _most(request: Mapping[str, Any]) -> int | None:
    return answer_limit(request) or None


def _shown(request: Mapping[str, Any]) -> str:
    """The beginning of the last message, in one line."""
    messages = request.get("messages") or [{}]
    content = messages[-1].get("content") if isinstance(messages[-1], dict) else ""
    text = content if isinstance(content, str) else orjson.dumps(content).decode()
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
