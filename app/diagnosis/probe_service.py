"""Measures what the service stands on: this machine (or its container), Redis and the database."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import redis
from celery import Celery
from sqlalchemy import Connection, func, select, text

from app.diagnosis.domain.doctor_service import (
    DatabaseFigures,
    FirewallRules,
    GateFigures,
    Machine,
    RedisFigures,
)
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.engines import parse_url, translated
from app.platform.migrate import connected, head_is_current
from app.platform.redis_scripts import connect
from app.reporting.store.alerts import load_vitals
from app.reporting.store.pacing_snapshot import PacingSnapshotReader
from app.tasks.store.tables import attempt, task, worker

_CGROUP = Path("/sys/fs/cgroup")  # version 2, as seen from within a container


def measure_machine(seconds: float = 1.0) -> Machine:
    """Look for `seconds`; what this process itself uses meanwhile is left out."""
    own = time.process_time()
    used = psutil.cpu_percent(interval=seconds) / 100
    used -= (time.process_time() - own) / seconds / (psutil.cpu_count() or 1)
    memory = psutil.virtual_memory()
    total, free = _bounded(int(memory.total), int(memory.available))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        float(affinity), max(0.0, used), psutil.getloadavg()[0], total, free, _limit(soft), _limit(hard)
    )


def free_space(folder: Path) -> tuple[int, int]:
    """Free and all bytes of the disk that holds `folder`, or would hold it."""
    there = next((part for part in (folder, *folder.parents) if part.exists()), Path("/"))
    usage = shutil.disk_usage(there)
    return usage.free, usage.total


_WRITES, _PAGE = 10, b"\0" * 4096


def fsync_seconds(folder: Path) -> tuple[float, ...]:
    """How long each of ten small writes to a disk takes until it is safe. Raises OSError."""
    took = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".penstock-doctor-") as file:
        for _ in range(_WRITES):
            file.write(_PAGE)
            file.flush()
            began = time.monotonic()
            os.fsync(file.fileno())
            took.append(time.monotonic() - began)
    return tuple(took)


_FIREWALLS = (("nft", "list", "ruleset"), ("iptables-save",), ("iptables", "-S"))
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"  # not in the path of most users


def read_firewall(commands: Sequence[Sequence[str]] = _FIREWALLS) -> FirewallRules:
    """The rules of this machine's packet filter, where a tool prints them and this user may read them."""
    refused = ""
    for name, *arguments in commands:
        path = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
        if path is None:
            continue
        code, text = run_tool([path, *arguments], 5.0)
        if code == 0:
            return FirewallRules(name, text)
        refused = f"{name} does not show its rules to this user"
    return FirewallRules(error=refused or "neither nft nor iptables is installed")


def run_tool(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of a program of this system; what it printed by then, and -1, where it takes too long."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return -1, (error.stdout or b"").decode(errors="replace")
    except OSError:
        return -1, ""
    return done.returncode, done.stdout.decode(errors="replace")


_NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970
_NTP_REQUEST = b"\x23" + 47 * b"\0"  # version 4, a client


def ntp_skew(server: str, *, port: int = 123, seconds: float = 2.0) -> float:
    """Seconds by which our clock is ahead of an NTP server's (RFC 4330). Raises OSError or ValueError."""
    family, kind, protocol, _, address = socket.getaddrinfo(server, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as plain:
        plain.settimeout(seconds)
        plain.connect(address)  # so that only its answers are taken
        sent = time.time()
        plain.send(_NTP_REQUEST)
        answer = plain.recv(512)
        came = time.time()
    if len(answer) < 48 or answer[0] & 7 != 4 or not 1 <= answer[1] <= 15:
        raise ValueError("not an answer of a server that knows the time")
    received: float
    replied: float
    received, replied = (
        whole - _NTP_EPOCH + part / 2**32 for whole, part in struct.iter_unpack("!II", answer[32:48])
    )
    return ((sent - received) + (came - replied)) / 2


def _limit(value: int) -> int:
    return 1 << 20 if value == resource.RLIM_INFINITY else value


def _bounded(total: int, free: int) -> tuple[int, int]:
    """The container's own limit, where there is a lower one."""
    try:
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # none, or "max"
        return total, free
    return (most, min(free, most - used)) if most < total else (total, free)


TIMEOUT = 2.0  # seconds for one answer
_REDIS_TRIPS = 20
_WATCH = 2.5  # seconds: a leader beats several times in it


def place(url: str) -> str:
    """host:port of a URL that may hold a password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'socket'}:{parts.port or 6379}" if parts.hostname else parts.path


def measure_redis(url: str) -> RedisFigures:
    """Round trips and settings; what the server does not report is left out."""
    client = connect(url, timeout=TIMEOUT, connections=1)
    try:
        return _measured_redis(client, place(url))
    except (redis.RedisError, OSError) as error:
        return RedisFigures(place(url), error=_redis_error(error))
    finally:
        client.close()


def watch_gate(snapshots: PacingSnapshotReader, seconds: float = _WATCH) -> GateFigures:
    """Whether the leader beats while we look. Raises RedisUnreachable."""
    began = time.monotonic()
    first = now = snapshots.look()
    while now.beat == first.beat and now.term and time.monotonic() - began < seconds:
        time.sleep(0.1)
        now = snapshots.look()
    watched = time.monotonic() - began
    return GateFigures(bool(now.term), abs(now.beat - first.beat), watched, now.workers, now.slots)


def consumers(celery: Celery, queue: str, seconds: float = 2.0) -> list[str] | None:
    """Names of the Celery workers that consume a queue; None when nobody could be asked."""
    try:
        answers = celery.control.inspect(timeout=seconds).active_queues() or {}
    except (redis.RedisError, OSError, celery.connection_for_read().recoverable_connection_errors):
        return None
    return [name for name, queues in answers.items() if any(row.get("name") == queue for row in queues)]


def _measured_redis(client: redis.Redis, where: str) -> RedisFigures:
    seconds = []
    for _ in range(_REDIS_TRIPS):
        began = time.monotonic()
        client.ping()
        seconds.append(time.monotonic() - began)
    before = time.time()
    clock: Any = client.time()
    ours = (before + time.time()) / 2
    memory: Any = client.info("memory")
    server: Any = client.info("server")
    return RedisFigures(
        where,
        tuple(seconds),
        str(server.get("redis_version", "")),
        str(memory.get("maxmemory_policy", "")),
        _appendonly(client),
        int(memory.get("used_memory", 0)),
        int(memory.get("maxmemory", 0)),
        ours - (clock[0] + clock[1] / 1e6),
    )


def _appendonly(client: redis.Redis) -> bool | None:
    persistence: Any = client.info("persistence")
    enabled = persistence.get("aof_enabled")
    return None if enabled is None else bool(enabled)


def _redis_error(error: Exception) -> str:
    if isinstance(error, redis.TimeoutError | TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(error, redis.AuthenticationError):
        return "it refuses the password"
    return "connection refused" if isinstance(error, redis.ConnectionError) else type(error).__name__


_DATABASE_TRIPS = 10
ALIVE_SECONDS = 30.0  # a worker beats every 10


def measure_database(url: str) -> DatabaseFigures:
    """Round trips and version. `error` says, without the URL, why there is no answer."""
    kind = "unknown"
    try:
        kind = parse_url(url).get_backend_name()
        if kind == "sqlite" and not Path(parse_url(url).database or "").exists():
            return DatabaseFigures(kind, error="its file is not there; penstock db upgrade makes it")
        current = head_is_current(url)
        with translated(), connected(url) as connection:
            return _measured_database(connection, kind, current)
    except DatabaseUnreachable:
        return DatabaseFigures(kind, error="does not answer")
    except ValueError as error:  # its words hold no password
        return DatabaseFigures(kind, error=str(error))


def alive(conn: Connection, now: float) -> int:
    """Workers whose beat is young."""
    rows = (
        select(func.count())
        .select_from(worker)
        .where(worker.c.ended_at.is_(None), worker.c.beat_at >= now - ALIVE_SECONDS)
    )
    return int(conn.execute(rows).scalar_one())


def cpu_and_workers(conn: Connection, now: float) -> tuple[float | None, int]:
    """The CPU share of the busiest machine (None: none reports), and workers whose beat is young."""
    cpu, _ = load_vitals(conn, now)
    return max(cpu.values(), default=None), alive(conn, now)


_LATEST_CALLS = 200


def latest_call_ids(conn: Connection, most: int = _LATEST_CALLS) -> list[dict[str, Any]]:
    """The newest calls with the ids that clients, traces and providers know them by; no texts."""
    a = attempt.c
    ids = (a.task_id, task.c.trace, a.upstream_request_id, a.key, a.upstream_model, a.outcome, a.status_code)
    rows = select(*ids, a.started_at, a.sent_at, a.first_byte_at, a.finished_at).order_by(a.seq.desc())
    joined = rows.select_from(attempt.outerjoin(task, task.c.id == a.task_id)).limit(most)
    return [dict(row) for row in conn.execute(joined).mappings()]


def _measured_database(connection: Connection, kind: str, current: bool) -> DatabaseFigures:
    seconds = []
    for _ in range(_DATABASE_TRIPS):
        began = time.monotonic()
        connection.execute(text("SELECT 1")).scalar_one()
        seconds.append(time.monotonic() - began)
    if kind == "sqlite":
        version = str(connection.execute(text("SELECT sqlite_version()")).scalar_one())
        return DatabaseFigures(kind, tuple(seconds), version, None, current)
    version = str(connection.execute(text("SHOW server_version")).scalar_one())
    before = time.time()
    theirs = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return DatabaseFigures(kind, tuple(seconds), version, (before + time.time()) / 2 - theirs, current)
