"""The service itself, judged: Redis, database, dispatcher, workers, pages. Times in seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from app.diagnosis.domain.doctor_network import judge_skew
from app.diagnosis.domain.finding import Finding, fail, milliseconds, ok, warn

OLDEST_REDIS, OLDEST_POSTGRES, OLDEST_SQLITE = (6, 2), (12, 0), (3, 35)
SLOW_REDIS, SLOW_DATABASE = 0.005, 0.02  # a round trip; a release takes several
FULL_REDIS, FILLING_REDIS = 0.9, 0.6  # of maxmemory; from 60 % on nothing more is published


@dataclass(frozen=True, slots=True)
class RedisFigures:
    """A Redis as it answers."""

    where: str  # host:port
    seconds: tuple[float, ...] = ()  # of each round trip
    version: str = ""
    policy: str = ""  # maxmemory-policy; empty: not told
    appendonly: bool | None = None  # None: not told
    used: int = 0  # bytes
    most: int = 0  # bytes; 0: no limit
    skew: float = 0.0  # of our clock against its own
    error: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseFigures:
    """A database as it answers."""

    kind: str  # sqlite, postgresql
    seconds: tuple[float, ...] = ()
    version: str = ""
    skew: float | None = None  # None: it has our clock
    current: bool = False  # the schema is this version's
    error: str = ""


@dataclass(frozen=True, slots=True)
class GateFigures:
    """What Redis knows of the dispatcher and the workers."""

    leads: bool  # somebody holds the term
    beats: int  # counted while we looked
    watched: float  # seconds of looking
    workers: int  # that report
    slots: int  # calls that these may hold


def judge_redis(found: RedisFigures) -> list[Finding]:
    """Reached, how fast, and set up so that it keeps what it is given."""
    if found.error:
        mend = "Start it, or correct REDIS_URL. Until then submissions wait in the database and nothing runs."
        return [fail("reached", f"no answer at {found.where}: {found.error}", mend)]
    return [
        _round_trips(found.where, found.seconds, SLOW_REDIS, "Redis belongs on this machine or next to it."),
        _version("Redis", found.version, OLDEST_REDIS),
        _keeping(found),
        _filling(found),
        judge_skew(found.skew, "Redis"),
    ]


def judge_cache(found: RedisFigures) -> Finding:
    """The Redis for cached answers: nothing depends on it."""
    if found.error:
        mend = "Start it or unset CACHE_URL: every prompt is paid for meanwhile."
        return warn("cache", f"no answer at {found.where}: {found.error}", mend)
    return ok("cache", f"{found.where} answers in {milliseconds(median(found.seconds))}")


def judge_database(found: DatabaseFigures) -> list[Finding]:
    """Reached, how fast, new enough, and with this version's tables."""
    if found.error:
        mend = "Start it, or correct DATABASE_URL. Until then nothing is accepted."
        return [fail("reached", f"{found.kind}: {found.error}", mend)]
    oldest = OLDEST_SQLITE if found.kind == "sqlite" else OLDEST_POSTGRES
    findings = [
        _round_trips(found.kind, found.seconds, SLOW_DATABASE, "The database belongs near the workers."),
        _version(found.kind, found.version, oldest),
        ok("migrations", "up to date")
        if found.current
        else fail("migrations", "the schema is not this version's", "Run: penstock db upgrade"),
    ]
    return findings if found.skew is None else [*findings, judge_skew(found.skew, "the database")]


def judge_dispatcher(gate: GateFigures) -> Finding:
    """Whether somebody leads and beats."""
    name, mend = "dispatcher", "Start one: penstock dispatcher (penstock up does); its log says why it ended."
    if not gate.leads:
        return fail(name, "nobody leads: nothing is released", mend)
    if not gate.beats:
        return fail(name, f"the leader has not beaten for {gate.watched:.0f} s", mend)
    return ok(name, "leads and beats")


def judge_workers(gate: GateFigures, alive: int) -> Finding:
    """Workers that report to Redis, and whose beat the database knows (`alive`)."""
    name, mend = "workers", "Start one: penstock worker (penstock up does); its log says why it ended."
    if not gate.workers:
        return fail(name, f"none reports a free slot ({alive} beat in the database): nothing runs", mend)
    said = f"{gate.workers} with {gate.slots:,} slots; {alive} beat in the database"
    if alive < gate.workers:
        mend = "Look at their logs: do they reach the database?"
        return warn(name, said, mend)
    return ok(name, said)


def judge_callback_workers(consumers: Sequence[str] | None) -> Finding:
    """Who consumes the queue `callbacks`; None: nobody could be asked."""
    name = "callback workers"
    if consumers:
        return ok(name, f"{len(consumers)}: {', '.join(sorted(consumers)[:4])}")
    said = "nobody could be asked" if consumers is None else "nobody delivers callbacks"
    return warn(name, said, "Start one: penstock callback-worker (penstock up does).")


def judge_page(name: str, where: str, status: int, error: str, mend: str) -> Finding:
    """A page of ours: 200 is well. `where` without credentials."""
    if status == 200:
        return ok(name, f"{where} answers")
    return warn(name, f"{where}: {error or status}", mend)


def _round_trips(where: str, seconds: Sequence[float], slow: float, mend: str) -> Finding:
    said = f"{where}: median {milliseconds(median(seconds))}, slowest {milliseconds(max(seconds))}"
    return warn("reached", f"{said}: slow", mend) if median(seconds) > slow else ok("reached", said)


def _version(what: str, version: str, oldest: tuple[int, int]) -> Finding:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < oldest:
        needed = ".".join(map(str, oldest))
        return fail("version", f"{what} {version} is too old", f"Use {needed} or newer.")
    return ok("version", f"{what} {version or 'tells no version'}")


def _keeping(found: RedisFigures) -> Finding:
    name = "keeping"
    if found.policy not in ("", "noeviction") and found.most:
        return fail(
            name,
            f"maxmemory-policy {found.policy} throws queues away",
            "Set maxmemory-policy noeviction; never share this Redis with a cache.",
        )
    if found.appendonly is False:
        return warn(
            name,
            "no append-only file: after a restart everything is fed again from the database",
            "Set appendonly yes, appendfsync everysec. Nothing is lost without it, it only takes longer.",
        )
    return ok(name, "noeviction, append-only file" if found.appendonly else "as its server tells")


def _filling(found: RedisFigures) -> Finding:
    used = f"{found.used / 1024**2:,.0f} MiB used"
    if not found.most:
        return ok("memory", f"{used}, no limit set")
    share = found.used / found.most
    said = f"{used}, {share:.0%} of maxmemory"
    mend = "Raise maxmemory; tasks wait in the database meanwhile."
    if share > FULL_REDIS:
        return fail("memory", said, mend)
    return (
        warn("memory", f"{said}: nothing more is published", mend)
        if share > FILLING_REDIS
        else ok("memory", said)
    )
