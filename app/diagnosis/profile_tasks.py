"""Say where the time of tasks goes, and what would help."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Table, func, select

from app.caching.domain.caching import cache_key, client_scope
from app.diagnosis.domain.profile_advice import (
    SHOWN,
    AskedPrompt,
    BatchPace,
    Circumstances,
    Proposal,
    RepeatedPrompt,
    proposals,
    repeats,
)
from app.diagnosis.domain.time_split import QuotaLimit, Split, TaskTiming, split
from app.pacing.domain.tokens import answer_limit
from app.pacing.store.leader_state import load_learned
from app.platform.database import Database
from app.platform.domain.money import NO_SUM
from app.platform.encryption import Unsealable
from app.settings.domain.routing import Topology
from app.tasks.store.tables import attempt, batch, callback, task, task_content

Block = tuple[int, int]  # first and last number
MOST_ROWS = 100_000
_BLOCK = 5_000  # rows that follow one another
LONGEST_PROMPT = 65_536  # characters; longer ones are not compared
MOST_PROMPTS = 20_000


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows by number, from `first` to `last`; `sampled`: only blocks of them are read."""

    first: int
    last: int
    most: int

    @property
    def rows(self) -> int:
        """At most: numbers may be missing."""
        return max(0, self.last - self.first + 1)

    @property
    def sampled(self) -> bool:
        """Whether not all of it is read."""
        return self.rows > self.most

    def blocks(self) -> list[Block]:
        """All rows as one, or blocks spread evenly over the span."""
        if not self.sampled:
            return [(self.first, self.last)] if self.rows else []
        size = min(_BLOCK, self.most)
        count = self.most // size
        step = self.rows / count
        starts = [self.first + int(step * number) for number in range(count)]
        return [(start, min(self.last, start + size - 1)) for start in starts]


def attempts_since(conn: Connection, since: float) -> RowRange:
    """The calls that ended since an instant."""
    return RowRange(*_range(conn, attempt, attempt.c.finished_at, since), MOST_ROWS)


def tasks_since(conn: Connection, since: float) -> RowRange:
    """The tasks submitted since an instant."""
    return RowRange(*_range(conn, task, task.c.created_at, since), MOST_PROMPTS)


def callbacks_since(conn: Connection, since: float) -> RowRange:
    """The callbacks that came about since an instant."""
    return RowRange(*_range(conn, callback, callback.c.created_at, since), MOST_ROWS)


def read_timings(conn: Connection, block: Block, since: float) -> list[TaskTiming]:
    """Calls of one block."""
    a = attempt.c
    tokens = func.coalesce(a.prompt_tokens, 0) + func.coalesce(a.completion_tokens, 0)
    times = (
        a.ready_at,
        a.released_at,
        a.started_at,
        a.sent_at,
        a.first_byte_at,
        a.finished_at,
        a.recorded_at,
    )
    columns = (a.client_id, a.upstream_model, a.key, a.account, a.outcome, *times, tokens)
    rows = select(*columns).where(a.seq.between(*block), a.finished_at >= since).order_by(a.seq)
    return [TaskTiming(*found) for found in map(tuple, conn.execute(rows))]


def read_callback_seconds(conn: Connection, block: Block, since: float) -> float:
    """Seconds from an ending until its callback was delivered, of one block."""
    c = callback.c
    took = func.coalesce(func.sum(c.finished_at - c.created_at), 0.0)
    rows = select(took).where(c.seq.between(*block), c.created_at >= since, c.status == "delivered")
    return float(conn.execute(rows).scalar_one())


def read_prompts(conn: Connection, block: Block, since: float) -> Sequence[Any]:
    """Requests of tasks of one block that an upstream answered, those that are not too long to compare."""
    t = task.c
    columns = (t.client_id, t.model, t.completion_tokens, t.cost_picos, t.currency, t.cache_key, t.cache_look)
    mine = t.seq.between(*block) & (t.created_at >= since) & (t.status == "succeeded")
    rows = (
        select(*columns, task_content.c.request).join(task_content, task_content.c.seq == t.seq).where(mine)
    )
    return conn.execute(rows.where(func.length(task_content.c.request) <= LONGEST_PROMPT)).all()


MOST_BATCHES = 20


def read_batches(conn: Connection, since: float, until: float) -> list[BatchPace]:
    """The newest batches with a batch_size that were created since an instant, and how long they have taken."""
    b = batch.c
    ended = func.coalesce(b.completed_at, b.cancelled_at, b.expired_at, until)
    rows = select(b.id, b.batch_size, b.total, ended - b.created_at).where(
        b.batch_size.is_not(None), b.created_at >= since
    )
    return [BatchPace(*row) for row in conn.execute(rows.order_by(b.seq.desc()).limit(MOST_BATCHES))]


def _range(conn: Connection, table: Table, at: Column[Any], since: float) -> tuple[int, int]:
    """First and last number of the rows since an instant; (1, 0) when there are none."""
    low, last = conn.execute(select(func.min(table.c.seq), func.max(table.c.seq))).one()
    if last is None:
        return 1, 0
    high = last + 1  # the first row that is young enough lies within low..high
    while low < high:
        middle = (low + high) // 2
        nearest = select(table.c.seq, at).where(table.c.seq >= middle).order_by(table.c.seq).limit(1)
        row = conn.execute(nearest).one()
        if row[1] >= since:
            high = middle
        else:
            low = row[0] + 1
    return low, last


_FIGURES = {"rpm": ("pace", 60.0), "tpm": ("tokens", 60.0), "concurrency": ("calls", 1.0)}  # learned ones


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How much there was, and how much of it was looked at."""

    rows: int
    read: int
    sampled: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A profile. `repeats` shows prompts, shortened: for the operator's eyes.

    `serialising`: seconds to read and write the JSON of one request, measured now on those looked at; 0: on none.
    """

    since: float
    until: float
    split: Split
    calls: SampleSize
    prompts: SampleSize
    proposals: Sequence[Proposal]
    repeats: Sequence[RepeatedPrompt]
    sealed: bool  # prompts are encrypted by a key that is not here: they could not be compared
    serialising: float = 0.0

    @property
    def advice(self) -> list[str]:
        """The proposals as sentences."""
        return [one.sentence for one in self.proposals]


class ProfileTasks:
    """The use case. Reads bounded ranges, block by block, so that no snapshot is held for long."""

    def __init__(
        self,
        database: Database,
        topology: Topology,
        slots: int | None = None,
        round_trips: Mapping[str, float] | None = None,
        unpacked: Mapping[str, str] | None = None,
    ) -> None:
        """`slots` are those of one worker; `round_trips` the seconds to the upstream and back, by key, where measured;
        `unpacked` the upstreams that get plain bodies, by key."""
        self._database = database
        self._slots = slots
        self._topology = topology
        self._round_trips = round_trips or {}
        self._unpacked = unpacked or {}

    def report(self, since: float, until: float) -> Report:
        """What has ended since an instant. Raises DatabaseUnreachable."""
        read = self._database.read
        span = read(partial(attempts_since, since=since))
        blocks = [read(partial(read_timings, block=block, since=since)) for block in span.blocks()]
        trips = [trip for block in blocks for trip in block]
        limits = limits_of(self._topology, read(load_learned))
        share = span.rows / len(trips) if span.sampled and trips else 1.0
        found = split(blocks, limits, self._callbacks(since) / share, self._slots, self._round_trips)
        asked, prompts, sealed = self._asked(since)
        around = self._circumstances(read(partial(read_batches, since=since, until=until)))
        return Report(
            since,
            until,
            found,
            SampleSize(span.rows if span.sampled else len(trips), len(trips), span.sampled),
            prompts,
            proposals(found, trips, {one.id: one for one in limits}, self._topology.keys, asked, around),
            repeats(asked),
            sealed,
            _serialising([one.text for one in asked if one.text]),
        )

    def _circumstances(self, batches: Sequence[BatchPace]) -> Circumstances:
        tiers = {
            model: [[(route.key, route.upstream_model) for route in tier] for tier in tiers]
            for model, tiers in self._topology.models.items()
        }
        return Circumstances(self._slots, batches, tiers, self._unpacked)

    def _callbacks(self, since: float) -> float:
        """Seconds that callbacks took, all of them: a sample stands for the rest."""
        read = self._database.read
        span = read(partial(callbacks_since, since=since))
        blocks = span.blocks()
        seconds = [read(partial(read_callback_seconds, block=block, since=since)) for block in blocks]
        return sum(seconds) * (span.rows / span.most if span.sampled else 1.0)

    def _asked(self, since: float) -> tuple[list[AskedPrompt], SampleSize, bool]:
        read = self._database.read
        span = read(partial(tasks_since, since=since))
        asked: list[AskedPrompt] = []
        try:
            for block in span.blocks():
                asked += _read(read(partial(read_prompts, block=block, since=since)))
        except Unsealable:
            return [], SampleSize(span.rows, 0, span.sampled), True
        return asked, SampleSize(span.rows, len(asked), span.sampled), False


def limits_of(topology: Topology, learned: Mapping[str, Mapping[str, Any]]) -> list[QuotaLimit]:
    """The configured limits, and learned ones where none are configured."""
    ids = dict.fromkeys([*topology.quotas, *learned])
    return [limit for name in ids if (limit := _limit(name, topology, learned.get(name, {}))) is not None]


def _limit(name: str, topology: Topology, learned: Mapping[str, Any]) -> QuotaLimit | None:
    kind, _, rest = name.partition(":")
    owner, _, model = rest.partition(":")
    configured = topology.quotas.get(name)
    if kind not in ("account", "key") or not model:  # more than quotas is learned
        return None
    if configured is not None and (configured.rpm or configured.tpm or configured.concurrency):
        return QuotaLimit(
            name, owner, kind == "key", model, configured.rpm, configured.tpm, configured.concurrency
        )
    figures = learned.get("figures", {})
    known = {
        figure: float(figures[theirs]["level"]) * factor
        for figure, (theirs, factor) in _FIGURES.items()
        if theirs in figures
    }
    return QuotaLimit(name, owner, kind == "key", model, configured=False, **known) if known else None


_TEXTS = 20  # of each client and model, in each block


def _read(rows: Sequence[Any]) -> Iterator[AskedPrompt]:
    kept: Counter[tuple[str, str]] = Counter()
    for row in rows:
        try:
            request = orjson.loads(row.request)
            key = cache_key(client_scope(row.client_id), row.model, "", request)
        except (orjson.JSONDecodeError, ValueError, AttributeError):  # erased
            continue
        kept[row.client_id, row.model] += 1
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
            len(row.request),
            _sent(request) if kept[row.client_id, row.model] <= _TEXTS else "",
        )


def _sent(request: Mapping[str, Any]) -> str:
    """All messages, as the upstream reads them one after the other."""
    messages = [each for each in request.get("messages") or () if isinstance(each, dict)]
    return "\n".join(_text(each.get("content")) for each in messages)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content).decode()


def _serialising(texts: Sequence[str]) -> float:
    """Seconds to write a request's JSON and read it again, on average of some."""
    began = time.perf_counter()
    for text in texts:
        orjson.loads(orjson.dumps({"messages": [{"role": "user", "content": text}]}))
    return (time.perf_counter() - began) / len(texts) if texts else 0.0


def _most(request: Mapping[str, Any]) -> int | None:
    return answer_limit(request) or None


def _shown(request: Mapping[str, Any]) -> str:
    """The beginning of the last message, in one line."""
    messages = request.get("messages") or [{}]
    content = messages[-1].get("content") if isinstance(messages[-1], dict) else ""
    line = " ".join(_text(content).split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
