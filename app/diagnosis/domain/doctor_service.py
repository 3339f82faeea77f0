"""Judges the service itself: Redis, database, dispatcher, workers, pages, this machine, alerts. Times are seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from app.diagnosis.domain.doctor_upstream import judge_skew
from app.diagnosis.domain.finding import Finding, fail, milliseconds, ok, warn
from app.reporting.domain.alerts import Alert
from app.settings.domain.alert_rules import Severity

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
        hint = "Start it, or correct REDIS_URL. Until then submissions wait in the database and nothing runs."
        return [fail("reached", f"no answer at {found.where}: {found.error}", hint)]
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
        hint = "Start it or unset CACHE_URL: every prompt is paid for meanwhile."
        return warn("cache", f"no answer at {found.where}: {found.error}", hint)
    return ok("cache", f"{found.where} answers in {milliseconds(median(found.seconds))}")


def judge_database(found: DatabaseFigures) -> list[Finding]:
    """Reached, how fast, new enough, and with this version's tables."""
    if found.error:
        hint = "Start it, or correct DATABASE_URL. Until then nothing is accepted."
        return [fail("reached", f"{found.kind}: {found.error}", hint)]
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
    name, hint = "dispatcher", "Start one: penstock dispatcher (penstock up does); its log says why it ended."
    if not gate.leads:
        return fail(name, "nobody leads: nothing is released", hint)
    if not gate.beats:
        return fail(name, f"the leader has not beaten for {gate.watched:.0f} s", hint)
    return ok(name, "leads and beats")


def judge_workers(gate: GateFigures, alive: int) -> Finding:
    """Workers that report to Redis, and whose beat the database knows (`alive`)."""
    name, hint = "workers", "Start one: penstock worker (penstock up does); its log says why it ended."
    if not gate.workers:
        return fail(name, f"none reports a free slot ({alive} beat in the database): nothing runs", hint)
    said = f"{gate.workers} with {gate.slots:,} slots; {alive} beat in the database"
    if alive < gate.workers:
        hint = "Look at their logs: do they reach the database?"
        return warn(name, said, hint)
    return ok(name, said)


def judge_callback_workers(consumers: Sequence[str] | None) -> Finding:
    """Who consumes the queue `callbacks`; None: nobody could be asked."""
    name = "callback workers"
    if consumers:
        return ok(name, f"{len(consumers)}: {', '.join(sorted(consumers)[:4])}")
    said = "nobody could be asked" if consumers is None else "nobody delivers callbacks"
    return warn(name, said, "Start one: penstock callback-worker (penstock up does).")


def judge_page(name: str, where: str, status: int, error: str, hint: str) -> Finding:
    """A page of ours: 200 is well. `where` without credentials."""
    if status == 200:
        return ok(name, f"{where} answers")
    return warn(name, f"{where}: {error or status}", hint)


def _round_trips(where: str, seconds: Sequence[float], slow: float, hint: str) -> Finding:
    said = f"{where}: median {milliseconds(median(seconds))}, slowest {milliseconds(max(seconds))}"
    return warn("reached", f"{said}: slow", hint) if median(seconds) > slow else ok("reached", said)


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
    hint = "Raise maxmemory; tasks wait in the database meanwhile."
    if share > FULL_REDIS:
        return fail("memory", said, hint)
    return (
        warn("memory", f"{said}: nothing more is published", hint)
        if share > FILLING_REDIS
        else ok("memory", said)
    )


WANTED_FILES = 8192
FILES_BESIDE_CALLS = 200  # of a worker: database, Redis, logs
_GIB = 1024**3
BUSY_CPU = 0.85
SCARCE_MEMORY, NO_MEMORY = 0.10, 0.04  # of all
SCARCE_DISK, NO_DISK = 2 * _GIB, 0.25 * _GIB


@dataclass(frozen=True, slots=True)
class Machine:
    """Figures of this machine, or of the container that bounds it."""

    cpus: float
    cpu_used: float  # share, measured for a second
    load: float  # processes that want to run, over the last minute
    memory: int  # bytes, all
    memory_free: int  # bytes that could be had
    files: int  # open files that a process may have now
    most_files: int  # as far as it may raise that itself


def judge_cpu(machine: Machine) -> Finding:
    """Whether there is time left to run in."""
    said = f"{machine.cpu_used:.0%} of {machine.cpus:g} CPUs used, load {machine.load:.1f}"
    if machine.cpu_used > BUSY_CPU:
        return warn(
            "CPU", said, "Find what uses it (top), or give the service more; answers are recorded late."
        )
    return ok("CPU", said)


def judge_memory(machine: Machine) -> Finding:
    """Whether there is memory left."""
    share = machine.memory_free / machine.memory if machine.memory else 0.0
    said = f"{_size(machine.memory_free)} of {_size(machine.memory)} free"
    hint = "Lower [worker] concurrency or end something else: a process that is killed makes its calls again."
    if share < NO_MEMORY:
        return fail("memory", said, hint)
    return warn("memory", said, hint) if share < SCARCE_MEMORY else ok("memory", said)


def judge_disk(what: str, folder: str, free: int, total: int) -> Finding:
    """Whether a folder can still be written to."""
    name = f"disk of {what}"
    said = f"{_size(free)} of {_size(total)} free in {folder}"
    hint = "Make room: a full disk stops the database, and with it everything."
    if free < NO_DISK:
        return fail(name, said, hint)
    return warn(name, said, hint) if free < SCARCE_DISK else ok(name, said)


def judge_files(machine: Machine, concurrency: int) -> Finding:
    """Whether a worker can hold all its connections at once."""
    within = max(machine.files, min(machine.most_files, WANTED_FILES))
    said = f"{machine.files:,} open files, up to {machine.most_files:,}"
    hint = f"Raise the limit to {WANTED_FILES} (ulimit -n, LimitNOFILE=), or lower [worker] concurrency."
    if within < concurrency + FILES_BESIDE_CALLS:
        return fail("open files", f"{said}: too few for {concurrency:,} calls at once", hint)
    return warn("open files", said, hint) if within < WANTED_FILES else ok("open files", said)


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB"


_TRY = "Correct the address where the reference points, then try it: penstock alerts test"


def judge_channels(
    problems: Mapping[str, str | None], last_errors: Mapping[str, str | None]
) -> list[Finding]:
    """Each channel: what is wrong with its address (None: nothing), else how its last try fared."""
    if not problems:
        return [ok("channels", "none is configured: alerts show on the dashboard alone (docs/alerts.md)")]
    findings = []
    for name, problem in problems.items():
        error = problem or last_errors.get(name)
        findings.append(fail(name, error, _TRY) if error else ok(name, _fared(name, last_errors)))
    return findings


def judge_firing(alerts: Sequence[Alert], runbook: str) -> list[Finding]:
    """What fires now."""
    if not alerts:
        return [ok("firing", "nothing fires")]
    return [_firing(alert, f"{runbook}#{alert.rule}") for alert in alerts]


def _firing(alert: Alert, entry: str) -> Finding:
    name = f"{alert.rule} ({alert.subject})" if alert.subject else alert.rule
    judged = warn if alert.severity is Severity.WARNING else fail
    return judged(name, f"fires ({alert.severity})", f"See {entry}")


def _fared(name: str, last_errors: Mapping[str, str | None]) -> str:
    return "its last message arrived" if name in last_errors else "its address is known; nothing was sent yet"
