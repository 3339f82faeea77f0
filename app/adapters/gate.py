"""The gate in Redis, as the leader sees it: term and epoch, snapshot, release, and what is put right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.adapters.known_heads import KnownHeads, head_of
from app.adapters.redis_scripts import Scripts
from app.adapters.reservoir import MEMORY_SHARE, WINDOW_OF_ALL
from app.domain.governor import CallReport
from app.domain.outcome import Outcome
from app.domain.plan import Release, Waiting
from app.domain.queue import SEPARATOR, key_queue, parse_backlog_queue
from app.domain.quota import Limits, QuotaState
from app.domain.routing import Topology
from app.domain.running import RunningCall
from app.domain.task import Step
from app.domain.token_learner import TokensUsed

WAKE = "penstock:wake"  # rung by whatever may let something go


class NotLeading(Exception):
    """Somebody else leads now."""


class EpochBroken(Exception):
    """Redis lost or replaced what it held; the leader must begin a new epoch."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker's last report."""

    worker: str
    at: float  # gate time
    keys: tuple[str, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the gate showed."""

    now: float
    waiting: tuple[Waiting, ...]
    quotas: Mapping[str, QuotaState]
    flights: Mapping[str, int]  # permits out, by key
    workers: tuple[WorkerState, ...]
    refeed: tuple[str, ...]  # tasks whose message is gone: to be fed again
    reports: tuple[CallReport, ...]  # what settled calls came to


@dataclass(slots=True)
class RedisGate:
    """What only the leader does. Every call but `look_at_leader` is refused under a term that is not the present one.

    All methods raise RedisUnreachable, NotLeading or EpochBroken.
    """

    scripts: Scripts
    term: str = ""
    limits: dict[str, Limits] = field(default_factory=dict)
    released_at: float = 0.0  # gate time of the last release
    _heads: KnownHeads = field(default_factory=KnownHeads)

    def leader(self) -> tuple[str, str]:
        """The present term and its beat, each '' when there is none."""
        term, beat = self.scripts.command("HMGET", "penstock:gate", "term", "beat")
        return (term or b"").decode(), (beat or b"").decode()

    def take_lead(self, term: str, seen: str) -> bool:
        """Take the lead if `seen` still stands. Gives back whether it was won."""
        word = self.scripts.run("lead", term, seen)[0]
        if word == b"ok":
            self.term = term
        return bool(word == b"ok")

    def begin_epoch(self, epoch: str, keys: Iterable[str]) -> None:
        """Throw away what Redis holds of places and permits. Until `open_epoch` publishing is refused."""
        self._heads = KnownHeads()
        self._run("reset", self.term, epoch, *(key_queue(key) for key in keys))

    def beat(self) -> None:
        """Say that the leader lives."""
        self._run("beat", self.term)

    def resign(self) -> None:
        """Make room for a successor at once."""
        self._run("resign", self.term)

    def open_epoch(self, calls: Sequence[RunningCall], quotas: Iterable[str], behind: Iterable[str]) -> None:
        """Put back permits of running calls; told buckets start empty; publishing is allowed again.

        `behind` are queues with rows in the database: those go first, by the feeder.
        """
        permits = [
            {
                "id": c.task_id,
                "n": str(c.release),
                "w": c.worker,
                "k": c.key,
                "u": c.upstream,
                "a": c.account,
                "m": c.upstream_model,
                "q": c.quotas,
                "e": c.estimate,
            }
            for c in calls
        ]
        self._run("open", self.term, orjson.dumps(permits), orjson.dumps(list(behind)), *quotas)

    def configure(self, limits: Mapping[str, Limits]) -> None:
        """Write the figures of quotas; levels are kept."""
        arguments: list[str | float] = []
        for name, figures in limits.items():
            arguments.append(name)
            for bucket in (figures.requests, figures.tokens):
                arguments += ("", "") if bucket is None else (bucket.rate, bucket.size)
            arguments.append("" if figures.cap is None else figures.cap)
        self._run("configure", self.term, *arguments)
        self.limits.update(limits)

    def look(self, heads: int, topology: Topology, quotas: Sequence[str], wait: float = 0.0) -> Look:
        """Take a snapshot, and beat; when the doorbell rings, at the latest after `wait` seconds."""
        since = self._heads.since(self.term, heads)
        arguments: list[str | float] = [self.term, heads, 2000, since, *quotas]
        if wait > 0:
            _, told = _held(self.scripts.run_at_ring(WAKE, wait, "snapshot", *arguments))
        else:
            _, told = self._run("snapshot", *arguments)
        now, refeed, reports, flights, workers, whole, last, queues, rows = orjson.loads(told)
        at = float(now)
        return Look(
            at,
            self._heads.told(at, heads, whole, last, queues, topology.models),
            {name: self._state(name, row, at) for name, row in zip(quotas, rows, strict=True)},
            {key: int(count) for key, count in _pairs(flights)},
            tuple(_worker(name, report) for name, report in _pairs(workers)),
            tuple(refeed),
            tuple(_report(report) for report in reports),
        )

    def release(self, releases: Sequence[Release]) -> list[str]:
        """Carry out releases, in order. Gives back a word for each: `ok`, `moved`, or the quota that refuses."""
        routes = list(dict.fromkeys(r.route for r in releases))
        described = [
            {
                "key": route.key,
                "list": key_queue(route.key),
                "upstream": route.upstream,
                "account": route.account,
                "model": route.upstream_model,
                "quotas": route.quotas,
            }
            for route in routes
        ]
        index = {route: at for at, route in enumerate(routes)}
        arguments: list[str | int | float] = []
        for r in releases:
            arguments += (r.queue, r.step, r.task_id, index[r.route], int(r.estimate), r.behind)
        words = self._run("release", self.term, orjson.dumps(described), *arguments)
        *answers, at = [word.decode() for word in words]
        self.released_at = float(at)
        return answers

    def brake(self, quota: str, seconds: float, why: str) -> None:
        """Release nothing on a quota for a while."""
        self._run("brake", self.term, quota, seconds, why)

    def release_brake(self, quota: str) -> None:
        """Take the brake off a quota before its time."""
        self._run("release_brake", self.term, quota)

    def take_back(self, age: float) -> int:
        """Put back what nobody redeemed within `age` seconds, and let due ghosts go. Gives back how many."""
        return int(self._run("take_back", self.term, age)[1])

    def bury(self, releases: Sequence[tuple[str, int]], seconds: float) -> None:
        """Free lost workers' tasks at once; their calls keep their places in the quotas for `seconds`."""
        arguments = [str(part) for pair in releases for part in pair]
        if arguments:
            self._run("bury", self.term, seconds, *arguments)

    def drop_worker(self, worker: str) -> None:
        """Forget a dead worker's report."""
        self.scripts.command("HDEL", "penstock:workers", worker)

    def permits_page(self, cursor: int, age: float) -> tuple[int, dict[str, int]]:
        """Some redeemed permits older than `age` as {task id: release}, and the next cursor (0: all seen)."""
        clock, skew = self.scripts.command("HMGET", "penstock:gate", "clock", "skew")
        before = float(clock or 0) - float(skew or 0) - age
        after, page = self.scripts.command("HSCAN", "penstock:permits", cursor, "COUNT", 500)
        permits = {task_id.decode(): orjson.loads(permit) for task_id, permit in _pairs(page)}
        return int(after), {t: int(p["n"]) for t, p in permits.items() if p.get("w") and p["t"] < before}

    def placed(self, task_ids: Sequence[str]) -> list[bool]:
        """Whether each task has a place or a permit."""
        if not task_ids:
            return []
        places = self.scripts.command("HMGET", "penstock:place", *task_ids)
        permits = self.scripts.command("HMGET", "penstock:permits", *task_ids)
        return [bool(a or b) for a, b in zip(places, permits, strict=True)]

    def overflows(self) -> dict[str, str]:
        """Queues to which others may not publish, with how often they were refused."""
        found = self.scripts.command("HGETALL", "penstock:overflow")
        return {queue.decode(): count.decode() for queue, count in _pairs(found)}

    def clear_overflow(self, queue: str, seen: str) -> None:
        """Let others publish again, unless somebody was refused since `seen`."""
        self.scripts.run("clear_overflow", queue, seen)

    def rooms(self, queues: Sequence[str], window: int, most: int) -> dict[str, int]:
        """How many more messages each queue would take in a round of `most` of each: 0 where it is full, or all are."""
        rooms = self.scripts.run("rooms", window, WINDOW_OF_ALL, MEMORY_SHARE, most, *queues)
        return {queue: int(room) for queue, room in zip(queues, rooms, strict=True)}

    def ordered_room(self, queue: str) -> dict[int, int]:
        """How many more messages that go by their deadline a queue may hold, by step."""
        rooms = self.scripts.run("ordered_room", queue)
        return {int(step): int(room) for step, room in zip(Step, rooms, strict=True)}

    def wait_for_wake(self, doorbell: str, seconds: float) -> bool:
        """Block until the doorbell rings, at most `seconds`."""
        return self.scripts.command("BLPOP", doorbell, max(0.001, round(seconds, 3))) is not None

    def _run(self, name: str, *arguments: str | float | bytes) -> Any:
        return _held(self.scripts.run(name, *arguments))

    def _state(self, name: str, row: Sequence[str | bool], now: float) -> QuotaState:
        level, tokens, at, flight, until = (float(v or 0) for v in row[:5])
        why = row[5] or ""
        limits = self.limits.get(name, _UNLIMITED)
        passed = now - at
        return QuotaState(
            limits.requests,
            limits.requests.filled(max(0.0, level), passed) if limits.requests else 0.0,
            limits.tokens,
            limits.tokens.filled(tokens, passed) if limits.tokens else 0.0,
            limits.cap,
            int(flight),
            until,
            str(why),
        )


_UNLIMITED = Limits()


def _held(answer: Any) -> Any:
    """What a script said, under a term and in an epoch that stand."""
    word = answer[0] if answer else b""
    if word == b"term":
        raise NotLeading
    if word == b"epoch":
        raise EpochBroken
    return answer


def _pairs(flat: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(flat, dict):  # as JSON from Lua, an empty list is an empty object
        return flat.items()
    return zip(flat[::2], flat[1::2], strict=True)


def _report(text: str) -> CallReport:
    said, route = orjson.loads(text)
    return CallReport(
        Outcome(said["outcome"]),
        route["key"],
        route["upstream"],
        route["account"],
        route["model"],
        float(route["released_at"]),
        float(route["at"]),
        float(said["seconds"]),
        float(route["estimate"]),
        tuple(said["braked"]),
        said["named"],
        said["hints"] or {},
        _used(said.get("used"), route.get("place"), route.get("list")),
        said.get("asked"),
    )


def _used(used: Sequence[int] | None, place: str | None, list_: str | None) -> TokensUsed | None:
    """None where the upstream counted nothing, or the permit is of an epoch before."""
    if not used or not place or not list_:
        return None
    head = head_of("", place)
    model, _ = parse_backlog_queue(list_.partition(SEPARATOR)[0])
    return TokensUsed(model, int(head.estimate), head.asked, *used)


def _worker(name: str, report: str) -> WorkerState:
    at, _, facts = report.partition("|")
    said = orjson.loads(facts)
    return WorkerState(name, float(at), tuple(said["keys"]), int(said["slots"]))
