"""Drain 5,000 tasks over four keys with unlike limits, as a ratio to the ideal.

ideal = max over quotas of (n - burst) / rate + mean latency, where n is the quota's share of the tasks.

    python -m benchmarks.bench_drain [--tasks 5000] [--database postgresql://...] [--workers 2]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from app.simulator.client import SimulatorProcess
from app.simulator.config import SimulatorConfig
from app.simulator.latency import Latency
from app.simulator.limits import Limit
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment

RATES = {"k1": 10.0, "k2": 10.0, "k3": 5.0, "k4": 25.0}  # requests per second
LATENCY = 1.0  # seconds, mean
CAP_FACTOR = 3.0  # calls at once, in seconds' worth: above the mean latency, as an account's cap is
MODEL = "deepseek-flash"


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to."""

    seconds: float
    ideal: float
    succeeded: int
    refused: int


def ideal_seconds(tasks: int) -> float:
    """When the last call ends, if all quotas are used to the full after a burst of one second's worth each."""
    total = sum(RATES.values())
    burst = total  # one second's worth of each
    return (tasks - burst) / total + LATENCY


def simulator_config() -> SimulatorConfig:
    """Four accounts, each with its rate and its cap."""
    limits = tuple(
        Limit(account=name, model=MODEL, rpm=rate * 60, concurrency=int(rate * CAP_FACTOR))
        for name, rate in RATES.items()
    )
    return SimulatorConfig(
        keys={f"sk-{name}": name for name in RATES}, limits=limits, latency=Latency(mean=LATENCY), seed=1
    )


def keys() -> list[Key]:
    """What Penstock is told of them."""
    return [
        Key(name, rpm=rate * 60, concurrency=int(rate * CAP_FACTOR), burst=max(1.0, rate))
        for name, rate in RATES.items()
    ]


def drain(tasks: int, folder: Path, database_url: str, redis_url: str, workers: int) -> Drained:
    """Submit all as one batch to an idle stack, and wait for its end."""
    with SimulatorProcess(simulator_config()) as upstream:
        config = configuration(upstream.base_url, keys())
        with Stack(
            folder,
            config,
            database_url=database_url,
            redis_url=redis_url,
            environment=key_environment(keys()),
        ) as stack:
            stack.start_all(workers=workers, callbacks=False)
            caller = Caller(stack.url, stack.admin_key)
            began = time.monotonic()
            batch = caller.submit_batch(f"Count to {n}." for n in range(tasks))
            done = caller.finished_batch(batch["id"], within=tasks / 20 + 120)
            seconds = time.monotonic() - began
        stats = upstream.stats()
    counts = done["request_counts"]
    return Drained(
        seconds, ideal_seconds(tasks), counts["completed"], sum(stats["totals"]["refused"].values())
    )


def main() -> int:
    """Run it and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sqlite", action="store_true", help="on SQLite instead of PostgreSQL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-drain-") as temporary:
        folder = Path(temporary)
        redis = RedisServer(folder / "redis")
        postgres = None if options.sqlite else PostgresServer()
        try:
            url = postgres.create_database() if postgres else f"sqlite:///{folder}/penstock.db"
            result = drain(options.tasks, folder / "stack", url, redis.url, options.workers)
        finally:
            redis.stop()
            if postgres:
                postgres.stop()
    print(f"tasks {options.tasks}  succeeded {result.succeeded}  refusals met {result.refused}")
    print(
        f"seconds {result.seconds:.2f}  ideal {result.ideal:.2f}  ratio {result.seconds / result.ideal:.3f}"
    )
    return 0 if result.succeeded == options.tasks and not result.refused else 1


if __name__ == "__main__":
    sys.exit(main())
