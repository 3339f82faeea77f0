"""Judges the service itself: Redis, database, dispatcher, workers, pages, this machine, alerts. Times are seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from app.diagnosis.domain.doctor_upstream import judge_skew
from app.diagnosis.domain.finding import Finding, fail, milliseconds, not_measured, ok, warn
from app.reporting.domain.alerts import Alert
from app.settings.domain.alert_rules import Severity

OLDEST_REDIS, OLDEST_POSTGRES, OLDEST_SQLITE = (6, 2), (12, 0), (3, 35)
SLOW_REDIS, SLOW_DATABASE = 0.005, 0.02  # a round trip; a release takes several
FULL_REDIS, FILLING_REDIS = 0.9, 0.6  # of maxmemory; from 60 % on nothing more is published


@dataclass(frozen=True, slots=True)
class RedisFigures:
    """What a Redis server reports."""

    where: str  # host:port
    seconds: tuple[float, ...] = ()  # of each round trip
    version: str = ""
    policy: str = ""  # maxmemory-policy; empty: unknown
    appendonly: bool | None = None  # None: unknown
    used: int = 0  # bytes
    most: int = 0  # bytes; 0: no limit
    skew: float = 0.0  # of our clock against its own
    error: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseFigures:
    """What a database reports."""

    kind: str  # sqlite, postgresql
    seconds: tuple[float, ...] = ()
    version: str = ""
    skew: float | None = None  # None: it has our clock
    current: bool = False  # the schema is this version's
    error: str = ""


@dataclass(frozen=True, slots=True)
class GateFigures:
    """What Redis shows of the dispatcher and the workers."""

    leads: bool  # somebody holds the term
    beats: int  # counted while we looked
    watched: float  # seconds of looking
    workers: int  # that report
    slots: int  # calls that these may hold


def judge_redis(found: RedisFigures) -> list[Finding]:
    """Whether it answers, how fast, and whether its settings keep the queues safe."""
    if found.error:
        hint = (
            "Start it, or correct REDIS_URL. Until then, submissions wait in the database and nothing runs."
        )
        return [fail("reached", f"no answer at {found.where}: {found.error}", hint)]
    return [
        _round_trips(
            found.where, found.seconds, SLOW_REDIS, "Run Redis on this machine or in the same network."
        ),
        _version("Redis", found.version, OLDEST_REDIS),
        _keeping(found),
        _filling(found),
        judge_skew(found.skew, "Redis"),
    ]


def judge_cache(found: RedisFigures) -> Finding:
    """The Redis for cached answers; the service runs without it."""
    if found.error:
        hint = "Start it or unset CACHE_URL. Until then, no answer comes from this cache."
        return warn("cache", f"no answer at {found.where}: {found.error}", hint)
    return ok("cache", f"{found.where} answers in {milliseconds(median(found.seconds))}")


def judge_database(found: DatabaseFigures) -> list[Finding]:
    """Whether it answers, how fast, and whether its version and schema are current."""
    if found.error:
        hint = "Start it, or correct DATABASE_URL. Until then, nothing is accepted."
        return [fail("reached", f"{found.kind}: {found.error}", hint)]
    oldest = OLDEST_SQLITE if found.kind == "sqlite" else OLDEST_POSTGRES
    findings = [
        _round_trips(
            found.kind, found.seconds, SLOW_DATABASE, "Run the database in the same network as the workers."
        ),
        _version(found.kind, found.version, oldest),
        ok("migrations", "up to date")
        if found.current
        else fail("migrations", "the schema does not match this version", "Run: penstock db upgrade"),
    ]
    return findings if found.skew is None else [*findings, judge_skew(found.skew, "the database")]


def judge_dispatcher(gate: GateFigures) -> Finding:
    """Whether a dispatcher leads and its heartbeat advances."""
    name, hint = (
        "dispatcher",
        "Start one: penstock dispatcher (penstock up does); its log says why it stopped.",
    )
    if not gate.leads:
        return fail(name, "no leader: nothing starts", hint)
    if not gate.beats:
        return fail(name, f"no heartbeat from the leader for {gate.watched:.0f} s", hint)
    return ok(name, "leading, heartbeat seen")


def judge_workers(gate: GateFigures, alive: int | None) -> Finding:
    """Workers that report to Redis, and those with a recent heartbeat in the database (`alive`; None: unknown)."""
    name, hint = "workers", "Start one: penstock worker (penstock up does); its log says why it stopped."
    beating = (
        "heartbeats in the database not read"
        if alive is None
        else f"{alive} with a heartbeat in the database"
    )
    if not gate.workers:
        return fail(name, f"none reports to Redis ({beating}): nothing runs", hint)
    said = f"{gate.workers} with {gate.slots:,} slots; {beating}"
    if alive is not None and alive < gate.workers:
        hint = "Check in their logs whether they reach the database."
        return warn(name, said, hint)
    return ok(name, said)


def judge_callback_workers(consumers: Sequence[str] | None) -> Finding:
    """Workers that consume the queue `callbacks`; None: the broker did not answer."""
    name = "callback workers"
    if consumers:
        return ok(name, f"{len(consumers)}: {', '.join(sorted(consumers)[:4])}")
    if consumers is None:
        return not_measured(name, "the broker does not answer", "Fix Redis first.")
    hint = "Start one: penstock callback-worker (penstock up does)."
    return warn(name, "none: callbacks are not delivered", hint)


def judge_page(name: str, where: str, status: int, error: str, hint: str) -> Finding:
    """A page of this service: 200 is healthy. `where` holds no credentials."""
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
    if not numbers:
        return not_measured(
            "version", f"{what} does not tell its version", f"It must be {oldest[0]}.{oldest[1]} or newer."
        )
    return ok("version", f"{what} {version}")


def _keeping(found: RedisFigures) -> Finding:
    name = "keeping"
    if found.policy not in ("", "noeviction") and found.most:
        return fail(
            name,
            f"maxmemory-policy {found.policy} can delete queues",
            "Set maxmemory-policy noeviction; do not use this Redis as a cache.",
        )
    if found.appendonly is False:
        return warn(
            name,
            "no append-only file: after a restart, all queues are rebuilt from the database",
            "Set appendonly yes, appendfsync everysec. Nothing is lost without it, but a restart takes longer.",
        )
    if found.appendonly is None:
        hint = "Check at its provider that it does not evict and keeps data over a restart."
        return not_measured(name, "the server does not report its persistence", hint)
    return ok(name, "noeviction, append-only file")


def _filling(found: RedisFigures) -> Finding:
    used = f"{found.used / 1024**2:,.0f} MiB used"
    if not found.most:
        return ok("memory", f"{used}, no limit set")
    share = found.used / found.most
    said = f"{used}, {share:.0%} of maxmemory"
    hint = "Raise maxmemory. Until then, tasks wait in the database."
    if share > FULL_REDIS:
        return fail("memory", said, hint)
    return (
        warn("memory", f"{said}: no more tasks are queued", hint)
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
    """This machine, or the limits of its container."""

    cpus: float
    cpu_used: float  # share, measured for a second
    load: float  # processes that want to run, over the last minute
    memory: int  # bytes, all
    memory_free: int  # bytes that could be had
    files: int  # open files that a process may have now
    most_files: int  # as far as it may raise that itself


def judge_cpu(machine: Machine) -> Finding:
    """Whether CPU time is left."""
    said = f"{machine.cpu_used:.0%} of {machine.cpus:g} CPUs used, load {machine.load:.1f}"
    if machine.cpu_used > BUSY_CPU:
        return warn("CPU", said, "Find what uses it (top), or add CPUs: results are recorded late.")
    return ok("CPU", said)


def judge_memory(machine: Machine) -> Finding:
    """Whether memory is left."""
    share = machine.memory_free / machine.memory if machine.memory else 0.0
    said = f"{_size(machine.memory_free)} of {_size(machine.memory)} free"
    hint = "Lower [worker] concurrency or stop other programs: calls of a killed process are repeated."
    if share < NO_MEMORY:
        return fail("memory", said, hint)
    return warn("memory", said, hint) if share < SCARCE_MEMORY else ok("memory", said)


def judge_disk(what: str, folder: str, free: int, total: int) -> Finding:
    """Whether a folder's disk has space left."""
    name = f"disk of {what}"
    said = f"{_size(free)} of {_size(total)} free in {folder}"
    hint = "Free some space: a full disk stops the database and thereby the service."
    if free < NO_DISK:
        return fail(name, said, hint)
    return warn(name, said, hint) if free < SCARCE_DISK else ok(name, said)


SLOW_DISK = 0.02  # seconds of an fsync: SQLite and Redis make one for each commit, or each second


def judge_disk_speed(what: str, seconds: Sequence[float], error: str = "") -> Finding:
    """How long small writes take until they are safe. `error`: why there are none."""
    name = f"disk speed of {what}"
    if not seconds:
        return not_measured(
            name, error or "nothing could be written", "Run doctor as the service's user, with --data."
        )
    said = f"fsync of 4 KiB: median {milliseconds(median(seconds))}, slowest {milliseconds(max(seconds))}"
    if median(seconds) > SLOW_DISK:
        return warn(name, f"{said}: slow", "Use a local SSD: each commit waits for this.")
    return ok(name, said)


@dataclass(frozen=True, slots=True)
class FirewallRules:
    """This machine's packet filter, as one of its tools prints it."""

    tool: str = ""
    text: str = ""
    error: str = ""  # why there is none


_CHAIN, _HOOK = re.compile(r"^\s*chain\s"), re.compile(r"hook\s+(\w+).*?(?:policy\s+(\w+))?\s*;?\s*$")
_BLOCKS = re.compile(r"\b(drop|reject)\b", re.IGNORECASE)
_OUTGOING = re.compile(r"^(:OUTPUT\s+DROP\b|-P\s+OUTPUT\s+DROP\b|-A\s+OUTPUT\b.*-j\s+(DROP|REJECT)\b)")


def judge_firewall(found: FirewallRules, ports: Sequence[int]) -> Finding:
    """Rules of this machine that stop outgoing packets. `ports`: those that must be open to the outside."""
    name = "firewall"
    if found.error:
        return not_measured(name, found.error, "Run doctor as root, or ask who runs the firewall.")
    lines = outgoing_blocks(found.text)
    if not lines:
        return ok(name, f"no rule of this machine stops outgoing packets ({found.tool})")
    hint = f"Allow outgoing TCP to port {', '.join(map(str, ports)) or '443'}, and DNS, unless connections succeed."
    return warn(name, f"outgoing packets may be stopped: {'; '.join(lines[:3])[:300]}", hint)


def outgoing_blocks(text: str) -> list[str]:
    """The lines of `nft list ruleset` or `iptables-save` that drop or refuse outgoing packets."""
    found, hook = list[str](), ""
    for line in text.splitlines():
        if _OUTGOING.match(line):
            found.append(line.strip())
        if _CHAIN.match(line):
            hook = ""
        elif (match := _HOOK.search(line)) is not None:
            hook = match[1]
            found += [line.strip()] if hook == "output" and match[2] == "drop" else []
        elif hook == "output" and _BLOCKS.search(line):
            found.append(line.strip())
    return found


def judge_files(machine: Machine, concurrency: int) -> Finding:
    """Whether a worker can open all its connections."""
    within = max(machine.files, min(machine.most_files, WANTED_FILES))
    said = f"{machine.files:,} open files, up to {machine.most_files:,}"
    hint = f"Raise the limit to {WANTED_FILES} (ulimit -n, LimitNOFILE=), or lower [worker] concurrency."
    if within < concurrency + FILES_BESIDE_CALLS:
        return fail("open files", f"{said}: too few for {concurrency:,} concurrent calls", hint)
    return warn("open files", said, hint) if within < WANTED_FILES else ok("open files", said)


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB"


_TRY = "Correct the address that the reference points to, then run: penstock alerts test"


def judge_channels(
    problems: Mapping[str, str | None], last_errors: Mapping[str, str | None]
) -> list[Finding]:
    """Each channel: what is wrong with its address (None: nothing), else the result of its last message."""
    if not problems:
        return [ok("channels", "none configured: alerts appear only on the dashboard (docs/alerts.md)")]
    findings = []
    for name, problem in problems.items():
        error = problem or last_errors.get(name)
        findings.append(fail(name, error, _TRY) if error else ok(name, _fared(name, last_errors)))
    return findings


def judge_firing(alerts: Sequence[Alert] | None, runbook: str) -> list[Finding]:
    """Alerts that fire now; None: the database could not be read."""
    if alerts is None:
        return [
            not_measured(
                "firing", "alerts are in the database, which cannot be read", "Fix the database first."
            )
        ]
    if not alerts:
        return [ok("firing", "no alert fires")]
    return [_firing(alert, f"{runbook}#{alert.rule}") for alert in alerts]


def _firing(alert: Alert, entry: str) -> Finding:
    name = f"{alert.rule} ({alert.subject})" if alert.subject else alert.rule
    judged = warn if alert.severity is Severity.WARNING else fail
    return judged(name, f"firing ({alert.severity})", f"See {entry}")


def _fared(name: str, last_errors: Mapping[str, str | None]) -> str:
    return "last message delivered" if name in last_errors else "address valid; nothing sent yet"
