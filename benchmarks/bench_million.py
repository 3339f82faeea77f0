"""A million queued tasks: what they take of Redis, whether their order is kept, and what feeding one costs.

A leader's feeder between PostgreSQL and Redis, the window as it is by default. The backlog is filled up to each size,
and at each some thousand messages are taken from the queue's head and fed anew: microseconds of the feeder for each.

    python benchmarks/bench_million.py [--tasks 1000000] [--sqlite]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.dispatching.feed_backlog import CHUNK, Feeder
from app.execution.celery_app import Envelopes, make_celery
from app.pacing.store.backlog_publisher import WINDOW, RedisBacklogPublisher
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.platform.ports import SystemClock
from app.settings import Settings
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.store.submissions import insert_tasks
from benchmarks.bench_inserts import drafts
from tests.pacing.pacing_world import GateWorld, one_key
from tests.servers import PostgresServer, RedisServer

SIZES = (100_000, 250_000, 500_000, 1_000_000)  # beyond the window, or there were nothing to feed anew
TAKEN = 5 * CHUNK  # messages fed anew at each size
MB = 1_000_000
MEMORY = "200mb"  # Redis' maxmemory, of which the backlog may take 60 %


class Backlog:
    """A backlog in a database, the window of it in Redis, and the feeder between them."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        upgrade(database_url)
        self._database = Database(database_url)
        self._gate = GateWorld(redis_url, one_key(ConfiguredQuota("account:a:deepseek-flash", rpm=600)))
        self._gate.lead()
        clock = SystemClock()
        publisher = RedisBacklogPublisher(
            self._gate.scripts, Envelopes(make_celery(Settings(redis_url=redis_url))).encode, clock
        )
        publisher.term = self._gate.gate.term
        self._feeder = Feeder(self._database, publisher, self._gate.gate, clock)
        self._redis = self._gate.scripts.client
        self._ids: list[str] = []
        self._taken = 0

    def grow(self, size: int) -> None:
        """Store tasks until there are so many."""
        while len(self._ids) < size:
            rows = drafts(min(50_000, size - len(self._ids)))
            self._database.write(lambda conn, rows=rows: insert_tasks(conn, rows))
            self._ids += [row.id for row in rows]

    def fill(self) -> float:
        """Feed as far as the window reaches; gives back seconds for each task that was fed."""
        missing = min(WINDOW, len(self._ids) - self._taken) - self.window
        began = perf_counter()
        while self.window < min(WINDOW, len(self._ids) - self._taken):
            self._feeder.tick()
        return (perf_counter() - began) / max(1, missing)

    def take(self, count: int) -> bool:
        """Take messages from the head, as releases do; whether they were the next in order."""
        lists = list(self._redis.keys("backlog.*"))
        assert len(lists) == 1, lists
        messages = self._redis.rpop(lists[0], count)
        expected = self._ids[self._taken : self._taken + count]
        self._redis.hdel("penstock:place", *expected)
        self._taken += count
        return [name.encode() in message for name, message in zip(expected, messages, strict=True)] == (
            [True] * count
        )

    @property
    def window(self) -> int:
        """Messages in Redis."""
        return int(self._redis.hlen("penstock:place"))

    @property
    def memory(self) -> int:
        """Bytes that Redis uses."""
        return int(self._redis.info("memory")["used_memory"])

    def close(self) -> None:
        """Let go of everything."""
        self._database.close()
        self._redis.close()


def measure(database_url: str, redis_url: str, tasks: int) -> bool:
    """Print a line for each size; gives back whether everything held."""
    backlog, costs, right = Backlog(database_url, redis_url), list[float](), True
    empty = backlog.memory
    for size in sorted({min(size, tasks) for size in SIZES}):
        backlog.grow(size)
        backlog.fill()
        in_order = backlog.take(TAKEN)
        costs.append(backlog.fill() * 1e6)
        used = backlog.memory - empty
        right = right and in_order and backlog.window <= WINDOW
        print(
            f"{size:>9,} queued   {backlog.window:,} in Redis, {used / MB:.0f} MB ({used / backlog.window:.0f} bytes "
            f"each)   order {'kept' if in_order else 'LOST'}   feeding one {costs[-1]:.0f} us",
            flush=True,
        )
    backlog.close()
    print(f"feeding at the largest against the smallest backlog: ratio {costs[-1] / costs[0]:.2f}")
    return right


def main() -> int:
    """Start what is needed and run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-million-") as temporary:
        folder = Path(temporary)
        redis = RedisServer(folder / "redis", maxmemory=MEMORY, maxmemory_policy="noeviction")
        postgres = None if options.sqlite else PostgresServer()
        try:
            url = postgres.create_database() if postgres else f"sqlite:///{folder}/penstock.db"
            right = measure(url, redis.url, options.tasks)
        finally:
            redis.stop()
            if postgres:
                postgres.stop()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
