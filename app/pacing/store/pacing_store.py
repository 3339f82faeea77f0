"""The pacing store in Redis, as the leader uses it: term and generation, snapshot, release, and repairs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import redis
import structlog

from app.pacing.domain.backlog import read_place
from app.pacing.domain.plan import Release, WaitingList
from app.pacing.domain.rate_controller import CallReport
from app.pacing.domain.tokens import TokensUsed
from app.pacing.ports import RunningCall
from app.pacing.store.backlog_publisher import MEMORY_SHARE, WINDOW_OF_ALL
from app.pacing.store.queue_head_cache import QueueHeadCache
from app.platform.domain.names import SEPARATOR, key_queue, parse_backlog_queue
from app.platform.redis_scripts import Scripts
from app.settings.domain.routing import QuotaLimits, QuotaState, Topology
from app.tasks.domain.attempt import Outcome
from app.tasks.domain.task import PriorityStep
from app.upstreams.domain.key_health import NO_PROOFS, Proof

T = TypeVar("T")
log = structlog.get_logger("penstock.gate")

WAKE = "penstock:wake"  # set by whatever may allow a release
_DISTRUST_SECONDS = 30.0  # between two generations ended by a failed script


class NotLeading(Exception):
    """Another dispatcher leads now."""


class GenerationLost(Exception):
    """Redis lost or replaced its data; the leader must begin a new generation."""


@dataclass(frozen=True, slots=True)
class WorkerReportState:
    """A worker's last report."""

    worker: str
    at: float  # pacing time
    keys: tuple[str, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class Look:
    """A snapshot of the pacing store."""

    now: float
    waiting: tuple[WaitingList, ...]
    quotas: Mapping[str, QuotaState]
    flights: Mapping[str, int]  # permits in use, by key
    workers: tuple[WorkerReportState, ...]
    requeue: tuple[str, ...]  # tasks whose message is gone: to be queued again
    reports: tuple[CallReport, ...]  # outcomes of calls


@dataclass(slots=True)
class RedisPacingStore:
    """What only the leader does. Scripts refuse every call but `leader` under a term that is not the present one.

    All methods raise RedisUnreachable, NotLeading or GenerationLost.
    """

    scripts: Scripts
    term: str = ""
    limits: dict[str, QuotaLimits] = field(default_factory=dict)
    released_at: float = 0.0  # pacing time of the last release
    unreadable: Callable[[str, int], object] = lambda _kind, _count: None  # counts what was set aside
    monotonic: Callable[[], float] = time.monotonic
    _heads: QueueHeadCache = field(default_factory=QueueHeadCache)
    _quotas: tuple[str, ...] = ()  # those in snapshots
    _keys: tuple[str, ...] = ()
    _distrusted_at: float = -_DISTRUST_SECONDS

    def leader(self) -> tuple[str, str]:
        """The present term and its heartbeat count, each '' if there is none."""
        term, beat = self._checked(lambda: self.scripts.command("HMGET", "penstock:gate", "term", "beat"))
        return (term or b"").decode(errors="replace"), (beat or b"").decode(errors="replace")

    def take_lead(self, term: str, seen: str) -> bool:
        """Take the lead if `seen` still stands. Returns whether it was won."""
        word = self.scripts.run("lead", term, seen)[0]
        if word == b"ok":
            self.term = term
        return bool(word == b"ok")

    def begin_generation(self, generation: str, keys: Iterable[str]) -> None:
        """Delete all places and permits. Until `open_generation` publishing is refused."""
        self._heads = QueueHeadCache()
        self._run("reset", self.term, generation, *(key_queue(key) for key in keys))

    def beat(self) -> None:
        """Send a heartbeat."""
        self._run("beat", self.term)

    def resign(self) -> None:
        """Resign, so that another may lead at once."""
        self._run("resign", self.term)

    def open_generation(
        self, calls: Sequence[RunningCall], quotas: Iterable[str], behind: Iterable[str]
    ) -> None:
        """Restore permits of running calls, empty configured buckets, allow publishing again.

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

    def configure(self, limits: Mapping[str, QuotaLimits]) -> None:
        """Write the limits of quotas; levels are kept."""
        arguments: list[str | float] = []
        for name, figures in limits.items():
            arguments.append(name)
            for bucket in (figures.requests, figures.tokens):
                arguments += ("", "") if bucket is None else (bucket.rate, bucket.size)
            arguments.append("" if figures.cap is None else figures.cap)
        self._run("configure", self.term, *arguments)
        self.limits.update(limits)

    def look(self, heads: int, topology: Topology, quotas: Sequence[str], wait: float = 0.0) -> Look:
        """Take a snapshot, and send a heartbeat; as soon as it is woken, at the latest after `wait` seconds."""
        since = self._heads.since(self.term, heads)
        self._quotas, self._keys = tuple(quotas), tuple(topology.keys)
        arguments: list[str | float] = [self.term, heads, 2000, since, *quotas]
        if wait > 0:
            _, state = self._checked(lambda: self.scripts.run_at_ring(WAKE, wait, "snapshot", *arguments))
        else:
            _, state = self._run("snapshot", *arguments)
        now, requeue, reports, flights, workers, whole, last, queues, rows, aside = _loaded(state)
        at, bad = float(now), Counter({kind: int(count) for kind, count in _pairs(aside)})
        waiting = self._heads.update(at, heads, whole, last, queues, topology.models)
        try:
            states = {name: self._state(name, row, at) for name, row in zip(quotas, rows, strict=True)}
            flying = {key: int(count) for key, count in _pairs(flights)}
        except ValueError as error:
            raise self._distrust(error) from error
        crews = _readable(_worker, _pairs(workers))
        heard = _readable(_report, ((report,) for report in reports))
        self._set_aside(bad, [name for (name, _), crew in crews if crew is None])
        bad["outcome"] += sum(report is None for _, report in heard)
        self._say(bad)
        return Look(
            at,
            waiting,
            states,
            flying,
            tuple(crew for _, crew in crews if crew is not None),
            tuple(requeue),
            tuple(report for _, report in heard if report is not None),
        )

    def release(self, releases: Sequence[Release], proofs: Mapping[str, Proof] = NO_PROOFS) -> list[str]:
        """Release tasks, in order. Returns a word for each: `ok`, `moved`, or the quota that refuses.

        `proofs`: when keys last worked; stored in the permits.
        """
        routes = list(dict.fromkeys(r.route for r in releases))
        described = [
            {
                "key": route.key,
                "list": key_queue(route.key),
                "upstream": route.upstream,
                "account": route.account,
                "model": route.upstream_model,
                "quotas": route.quotas,
                **_proof(proofs.get(route.key)),
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

    def reclaim(self, age: float) -> int:
        """Reclaim permits not redeemed within `age` seconds, and end due orphan permits. Returns how many."""
        return int(self._run("reclaim", self.term, age)[1])

    def orphan_permits(self, releases: Sequence[tuple[str, int]], seconds: float) -> None:
        """Free lost workers' tasks at once; their calls count in their quotas for `seconds` more."""
        arguments = [str(part) for pair in releases for part in pair]
        if arguments:
            self._run("orphan_permits", self.term, seconds, *arguments)

    def drop_worker(self, worker: str) -> None:
        """Delete a dead worker's report."""
        self.scripts.command("HDEL", "penstock:workers", worker)

    def permits_page(self, cursor: int, age: float) -> tuple[int, dict[str, int]]:
        """Some redeemed permits older than `age` as {task id: release}, and the next cursor (0: all seen)."""
        clock, skew = self.scripts.command("HMGET", "penstock:gate", "clock", "skew")
        before = float(clock or 0) - float(skew or 0) - age
        after, page = self.scripts.command("HSCAN", "penstock:permits", cursor, "COUNT", 500)
        read = _readable(lambda task_id, permit: (task_id.decode(), orjson.loads(permit)), _pairs(page))
        permits = [
            known for _, known in read if known is not None
        ]  # others are set aside when they are needed
        return int(after), {t: int(p["n"]) for t, p in permits if _is_redeemed(p, before)}

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
        """Let others publish again, unless another was refused since `seen`."""
        self.scripts.run("clear_overflow", queue, seen)

    def rooms(self, queues: Sequence[str], window: int, most: int) -> dict[str, int]:
        """How many more messages each queue takes in a round of `most` of each; 0 if it is full, or all are."""
        rooms = self.scripts.run("rooms", window, WINDOW_OF_ALL, MEMORY_SHARE, most, *queues)
        return {queue: int(room) for queue, room in zip(queues, rooms, strict=True)}

    def ordered_room(self, queue: str) -> dict[int, int]:
        """How many more messages ordered by deadline a queue takes, by step."""
        rooms = self.scripts.run("ordered_room", queue)
        return {int(step): int(room) for step, room in zip(PriorityStep, rooms, strict=True)}

    def wait_for_wake(self, doorbell: str, seconds: float) -> bool:
        """Block until the wake-up key is set, at most `seconds`."""
        woken = self._checked(
            lambda: self.scripts.command("BLPOP", doorbell, max(0.001, round(seconds, 3))) or ()
        )
        return bool(woken)

    def _run(self, name: str, *arguments: str | float | bytes) -> Any:
        return self._checked(lambda: self.scripts.run(name, *arguments))

    def _checked(self, ask: Callable[[], Any]) -> Any:
        try:
            return _held(ask())
        except redis.exceptions.ResponseError as error:
            raise self._distrust(error) from error

    def _distrust(self, error: Exception) -> Exception:
        """A script failed over the data in Redis: end the generation, at most every 30 s. Returns what to raise."""
        log.error("Redis holds data that is not ours", error=str(error)[:200])
        now = self.monotonic()
        if now - self._distrusted_at < _DISTRUST_SECONDS:
            return error
        self._distrusted_at = now
        lists = map(key_queue, self._keys)
        answer = _held(self.scripts.run("distrust", self.term, len(self._quotas), *self._quotas, *lists))
        self._say(Counter(structure=len(answer[1])), [name.decode(errors="replace") for name in answer[1]])
        return GenerationLost()

    def _set_aside(self, bad: Counter[str], workers: Sequence[str]) -> None:
        """Remove unreadable entries, which the next snapshot would meet again."""
        queues, places = self._heads.bad_queues, self._heads.bad_places
        for table, kind, names in (
            ("penstock:workers", "worker", workers),
            ("penstock:queues", "queue", queues),
            ("penstock:place", "place", places),
        ):
            if names:
                bad[kind] += len(names)
                self._drop(table, names)
        if places:  # their tasks are queued again
            self.scripts.command("SADD", "penstock:refeed", *places)
            self.scripts.command("HSET", "penstock:gate", "void", "1")

    def _drop(self, table: str, names: Sequence[str]) -> None:
        """Delete these fields, and those whose names are not text."""
        raw = [name.encode(errors="surrogatepass") for name in names]
        if any("\ufffd" in name for name in names):
            raw += [name for name in self.scripts.command("HKEYS", table) if not _is_text(name)]
        self.scripts.command("HDEL", table, *raw)

    def _say(self, bad: Mapping[str, int], names: Sequence[str] = ()) -> None:
        for kind, count in bad.items():
            if count:
                self.unreadable(kind, count)
                log.error("unreadable entries in Redis were set aside", kind=kind, count=count, names=names)

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


_UNLIMITED = QuotaLimits()


def _proof(proof: Proof | None) -> dict[str, float]:
    return {} if proof is None else {"proved": proof.succeeded, "tested": proof.tested}


def _held(answer: Any) -> Any:
    """A script's answer. Raises NotLeading or GenerationLost."""
    word = answer[0] if answer else b""
    if word == b"term":
        raise NotLeading
    if word == b"epoch":
        raise GenerationLost
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
        said.get("id", ""),
        _model_and_client(route["list"])[1] if route.get("list") else "",
        said.get("status"),
        said.get("words", ""),
    )


def _used(used: Sequence[int] | None, place: str | None, list_: str | None) -> TokensUsed | None:
    """None if the upstream reported no usage, or the permit is of an earlier generation."""
    if not used or not place or not list_:
        return None
    head = read_place("", place)
    model, _ = _model_and_client(list_)
    return TokensUsed(model, int(head.estimate), head.asked, *used)


def _loaded(state: bytes) -> Any:
    """Decode the snapshot. Bytes that are not text are not ours: their entries are treated as unreadable."""
    try:
        return orjson.loads(state)
    except orjson.JSONDecodeError:
        return orjson.loads(state.decode(errors="replace"))


def _is_redeemed(permit: Any, before: float) -> bool:
    """Whether it is a permit, was redeemed, and was released before an instant."""
    return (
        isinstance(permit, dict)
        and bool(permit.get("w"))
        and isinstance(permit.get("t"), int | float)
        and permit["t"] < before
        and str(permit.get("n", "")).isdigit()
    )


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _readable(
    read: Callable[..., T], rows: Iterable[tuple[Any, ...]]
) -> list[tuple[tuple[Any, ...], T | None]]:
    """Each row with its value; None for an unreadable one."""
    found: list[tuple[tuple[Any, ...], T | None]] = []
    for row in rows:
        try:
            found.append((row, read(*row)))
        except (ValueError, TypeError, LookupError, AttributeError):
            found.append((row, None))
    return found


def _model_and_client(list_: str) -> tuple[str, str]:
    return parse_backlog_queue(list_.partition(SEPARATOR)[0])


def _worker(name: str, report: str) -> WorkerReportState:
    at, _, facts = report.partition("|")
    said = orjson.loads(facts)
    return WorkerReportState(name, float(at), tuple(said["keys"]), int(said["slots"]))
