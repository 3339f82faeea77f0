"""What a measurement stands on: a Redis and a PostgreSQL of its own that keep what they commit, and CPU by process."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from redis import Redis

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.servers import PostgresServer, RedisServer
from tests.stack import Key, Stack, configuration, key_environment


class DurablePostgres(PostgresServer):
    """PostgreSQL as installed (fsync and all), with more connections and memory enough."""

    _settings: ClassVar[Mapping[str, str]] = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "300",
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
    }


@dataclass
class Ground:
    """Servers, and a folder that goes away with them."""

    folder: Path
    redis: RedisServer
    postgres: PostgresServer | None
    _made: int = 0

    def database(self, kind: str = "postgresql") -> str:
        """The URL of a new, empty database: `postgresql` or `sqlite`."""
        self._made += 1
        if kind == "sqlite":
            return f"sqlite:///{self.folder}/database-{self._made}.db"
        assert self.postgres is not None
        return self.postgres.create_database()

    def scratch(self, name: str) -> Path:
        """A new folder."""
        self._made += 1
        path = self.folder / f"{name}-{self._made}"
        path.mkdir()
        return path

    def empty_redis(self) -> None:
        """Forget a service that was killed: the next would wait for its leader to be silent and its sends to be out."""
        with Redis.from_url(self.redis.url) as client:
            client.flushall()

    @property
    def server_pids(self) -> dict[str, int]:
        """The servers' processes."""
        found = {"redis": self.redis.pid}
        return {**found, "postgresql": self.postgres.pid} if self.postgres else found


@contextmanager
def ground(name: str, *, postgres: bool = True) -> Iterator[Ground]:
    """Start the servers, and end them."""
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix=f"penstock-{name}-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        redis = RedisServer(folder / "redis", appendonly=True, maxmemory="2gb")
        server = None
        try:
            server = DurablePostgres() if postgres else None
            yield Ground(folder, redis, server)
        finally:
            redis.stop()
            if server is not None:
                server.stop()


@contextmanager
def service(
    config: SimulatorConfig,
    keys: Sequence[Key],
    folder: Path,
    database_url: str,
    redis_url: str,
    *,
    more: str = "",
) -> Iterator[tuple[SimulatorProcess, Stack]]:
    """The whole service but for callbacks, before a simulated upstream; `keys` are what it is told.

    `more`: lines of its configuration.
    """
    with (
        SimulatorProcess(config) as upstream,
        Stack(
            folder,
            configuration(upstream.base_url, keys, more=more),
            database_url=database_url,
            redis_url=redis_url,
            environment=key_environment(keys),
        ) as stack,
    ):
        stack.start_all(callbacks=False)
        yield upstream, stack


def succeeded(upstream: SimulatorProcess) -> int:
    """Calls that have succeeded so far."""
    return int(upstream.stats()["totals"]["succeeded"])


def raise_file_limit() -> None:
    """Thousands of sockets need more than the 1,024 files of a login shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)
    if soft < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds that each process and its children have used so far; ended children count."""
    return {name: _cpu(pid) for name, pid in pids.items()}


def _cpu(pid: int) -> float:
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
        own = process.cpu_times()
        total += own.children_user + own.children_system
    except psutil.NoSuchProcess:
        pass
    return total


def pids_of(stack: Stack, base: Ground) -> dict[str, int]:
    """A stack's processes and the servers beneath it."""
    return {**{name: process.pid for name, process in stack.processes.items()}, **base.server_pids}
