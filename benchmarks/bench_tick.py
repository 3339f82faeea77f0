"""The leader's work per tick with 1,000 and with 1,000,000 rows waiting, on both databases, as a ratio.

python -m benchmarks.bench_tick [--rows 1000000] [--rounds 30] [--database sqlite|postgresql]

The real leader on a real Redis: a release turn, a round of the feeder whose window is full, one that feeds 20 rows, and
every healing job. The first round of a job counts by itself: some of them look at everything only now and then.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from sqlalchemy import text

from app.db.database import Database
from app.db.migrate import upgrade
from app.domain.task import Hold
from tests.servers import PostgresServer, RedisServer
from tests.stack import Key, configuration, key_environment

FEW = 1_000
WINDOW = 400  # messages of the one queue, so that rows wait in the database in both cases
FED = 20  # rows that one measured round feeds
QUEUE = "backlog.deepseek-flash.alice"
KEYS = [Key("k1", rpm=600, concurrency=10)]
NUMBERS = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last - 1)",
    "postgresql": "WITH n (i) AS (SELECT generate_series(:first, :last - 1))",
}
# Of ten rows one waits for its time; a tenth belongs to a batch.
FILL = """
    INSERT INTO task (id, client_id, model, queue, step, status, hold, estimate, created_at, available_at, expires_at)
    {numbers}
    SELECT 'task_b' || i, 'alice', 'deepseek-flash', '{queue}', i % 3 * 3, 'queued',
        CASE WHEN i % 10 = 9 THEN {until} ELSE 0 END, 100, :now, :now + 3600, :now + 86400
    FROM n
"""


def fill(database: Database, rows: int, now: float) -> None:
    """Rows that wait."""
    statement = text(FILL.format(numbers=NUMBERS[database.dialect], queue=QUEUE, until=int(Hold.UNTIL)))
    for first in range(0, rows, 50_000):
        bounds = {"first": first, "last": min(rows, first + 50_000), "now": now}
        database.write(lambda conn, bounds=bounds: conn.execute(statement, bounds))


def measure(url: str, redis_url: str, rows: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each piece of work: of its first round, and the median of the others."""
    from app.bootstrap import from_environment
    from app.services.begin_epoch import begin_epoch
    from workers.leader import Leader

    upgrade(url)
    os.environ |= {"DATABASE_URL": url, "REDIS_URL": redis_url}
    leader = Leader(from_environment())
    fill(leader.database, rows, leader.clock.now())
    while not leader.candidate.try_lead("bench"):
        pass
    leader.reservoir.term = "bench"
    begin_epoch(
        leader.gate,
        leader.database,
        leader.dispatcher.topology,
        leader.clock,
        epoch="bench",
        upstreams=leader.upstream_of_key,
        configure=leader.configure,
        pause=lambda _seconds: False,
    )
    feeder = leader.feeder
    feeder._size = WINDOW  # the window is no setting
    while leader.feed() == 0.0:
        pass

    def feed_some() -> None:
        feeder._size += FED
        leader.feed()

    work: dict[str, Callable[[], object]] = {
        "release turn": leader.dispatcher.turn,
        "feeder, window full": leader.feed,
        f"feeder, {FED} rows": feed_some,
    }
    work |= {f"heal: {type(tick.__self__).__name__}": tick for tick in leader.healing}  # type: ignore[attr-defined]
    taken = {name: [_milliseconds(act) for _ in range(rounds)] for name, act in work.items()}
    leader.database.close()
    return {name: (times[0], median(times[1:])) for name, times in taken.items()}


def _milliseconds(act: Callable[[], object]) -> float:
    began = perf_counter()
    act()
    return (perf_counter() - began) * 1000


def compare(kind: str, urls: tuple[str, str], redis: RedisServer, rows: int, rounds: int) -> None:
    """Print a table."""
    import redis as redis_py

    found = []
    for url, count in zip(urls, (FEW, rows), strict=True):
        with redis_py.Redis.from_url(redis.url) as client:
            client.flushall()
        found.append(measure(url, redis.url, count, rounds))
    few, many = found
    print(
        f"\n### {kind}\n\n| work | first, {FEW:,} rows (ms) | first, {rows:,} | median, {FEW:,} | median, {rows:,} |"
    )
    print("|---|---|---|---|---|")
    for name in few:
        print(
            f"| {name} | {few[name][0]:.1f} | {many[name][0]:.1f} | {few[name][1]:.1f} | {many[name][1]:.1f} |"
        )
    sums = [[sum(times[place] for times in one.values()) for place in (0, 1)] for one in (few, many)]
    print(f"| all | {sums[0][0]:.1f} | {sums[1][0]:.1f} | {sums[0][1]:.1f} | {sums[1][1]:.1f} |")
    print(
        f"\nratio of medians: {sums[1][1] / sums[0][1]:.2f}, of first rounds: {sums[1][0] / sums[0][0]:.2f}",
        flush=True,
    )


def main() -> None:
    """Compare on both databases, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--database", choices=("sqlite", "postgresql"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "penstock.toml").write_text(configuration("http://127.0.0.1:9/v1", KEYS), encoding="utf-8")
        os.environ |= {"PENSTOCK_CONFIG": str(folder / "penstock.toml"), **key_environment(KEYS)}
        redis = RedisServer(folder / "redis")
        try:
            if arguments.database != "postgresql":
                files = (f"sqlite:///{folder}/few.db", f"sqlite:///{folder}/many.db")
                compare("SQLite", files, redis, arguments.rows, arguments.rounds)
            if arguments.database != "sqlite":
                server = PostgresServer()
                try:
                    urls = (server.create_database(), server.create_database())
                    compare("PostgreSQL", urls, redis, arguments.rows, arguments.rounds)
                finally:
                    server.stop()
        finally:
            redis.stop()


if __name__ == "__main__":
    main()
