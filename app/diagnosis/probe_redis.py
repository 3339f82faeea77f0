"""Measuring a Redis, and asking through it who works."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import redis
from celery import Celery

from app.diagnosis.domain.doctor_service import GateFigures, RedisFigures
from app.platform.redis_scripts import connect
from app.reporting.store.pacing_snapshot import PacingSnapshotReader

TIMEOUT = 2.0  # seconds for one answer
_TRIPS = 20
_WATCH = 2.5  # seconds: a leader beats several times in it


def place(url: str) -> str:
    """host:port of a URL that may hold a password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'socket'}:{parts.port or 6379}" if parts.hostname else parts.path


def measure(url: str) -> RedisFigures:
    """Round trips and settings; what its server does not tell is left out."""
    client = connect(url, timeout=TIMEOUT, connections=1)
    try:
        return _measured(client, place(url))
    except (redis.RedisError, OSError) as error:
        return RedisFigures(place(url), error=_why(error))
    finally:
        client.close()


def watch_gate(gauge: PacingSnapshotReader, seconds: float = _WATCH) -> GateFigures:
    """Whether the leader beats while we look. Raises RedisUnreachable."""
    began = time.monotonic()
    first = now = gauge.look()
    while now.beat == first.beat and now.term and time.monotonic() - began < seconds:
        time.sleep(0.1)
        now = gauge.look()
    watched = time.monotonic() - began
    return GateFigures(bool(now.term), abs(now.beat - first.beat), watched, now.workers, now.slots)


def consumers(celery: Celery, queue: str, seconds: float = 2.0) -> list[str] | None:
    """Names of the Celery workers that consume a queue; None when nobody could be asked."""
    try:
        answers = celery.control.inspect(timeout=seconds).active_queues() or {}
    except (redis.RedisError, OSError, celery.connection_for_read().recoverable_connection_errors):
        return None
    return [name for name, queues in answers.items() if any(row.get("name") == queue for row in queues)]


def _measured(client: redis.Redis, where: str) -> RedisFigures:
    seconds = []
    for _ in range(_TRIPS):
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
    told = persistence.get("aof_enabled")
    return None if told is None else bool(told)


def _why(error: Exception) -> str:
    if isinstance(error, redis.TimeoutError | TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(error, redis.AuthenticationError):
        return "it refuses the password"
    return "connection refused" if isinstance(error, redis.ConnectionError) else type(error).__name__
