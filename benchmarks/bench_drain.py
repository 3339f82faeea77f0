"""Drain of 5,000 tasks over four keys with unlike limits, against the ideal and two peers; then with limits hidden.

ideal = max over quotas of (n - burst) / rate + mean latency, where n is the quota's share of the tasks. The keys take
10, 10, 5 and 25 requests per second, three seconds' worth of calls at once, and answer after 1 s in the mean.

    python -m benchmarks.bench_drain [--tasks 5000] [--peer-tasks 5000] [--hidden 5000] [--workers 2]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.frame import options, recorded
from benchmarks.ground import Ground, ground
from benchmarks.rivals import celery_peer, router
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from simulator.limits import Limit
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

    @property
    def ratio(self) -> float:
        """Of the ideal."""
        return self.seconds / self.ideal


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


def drain(
    tasks: int, folder: Path, database_url: str, redis_url: str, workers: int, *, hidden: bool = False
) -> Drained:
    """Submit all as one batch to an idle stack, and wait for its end. `hidden`: Penstock is told no limits."""
    told = [Key(name) for name in RATES] if hidden else keys()
    with SimulatorProcess(simulator_config()) as upstream:
        config = configuration(upstream.base_url, told)
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


def recipe(tasks: int, base: Ground) -> Drained:
    """The usual recipe: Celery, tenacity's backoff with jitter, keys in turn."""
    with (
        SimulatorProcess(simulator_config()) as upstream,
        celery_peer(
            "recipe",
            base.scratch("recipe"),
            redis=base.redis.url,
            upstream=upstream.base_url,
            keys=[f"sk-{name}" for name in RATES],
        ) as running,
    ):
        found = running.drive(tasks, 0)
        refused = sum(upstream.stats()["totals"]["refused"].values())
    base.empty_redis()
    return Drained(found["seconds"], ideal_seconds(tasks), tasks - found["failed"], refused)


def routed(tasks: int) -> Drained:
    """LiteLLM's Router with the limits told."""
    with SimulatorProcess(simulator_config()) as upstream:
        limits = {f"sk-{name}": (rate * 60, int(rate * CAP_FACTOR)) for name, rate in RATES.items()}
        found = router(tasks, upstream=upstream.base_url, limits=limits)
        refused = sum(upstream.stats()["totals"]["refused"].values())
    return Drained(found["seconds"], ideal_seconds(tasks), tasks - found["failed"], refused)


def ours(tasks: int, base: Ground, database: str, workers: int, *, hidden: bool = False) -> Drained:
    """Penstock, on servers of this benchmark."""
    folder, url = base.scratch("stack"), base.database(database)
    found = drain(tasks, folder, url, base.redis.url, workers, hidden=hidden)
    base.empty_redis()
    return found


def main() -> int:
    """Run all, one after the other, and print the ratios."""
    told = options(
        __doc__,
        tasks=(5000, 500),
        peer_tasks=(5000, 300),
        hidden=(5000, 300),
        workers=(2, 2),
        database=("postgresql", "postgresql"),
    )
    with (
        recorded("drain", "Drain, limits told", quick=told.quick) as record,
        ground("drain", postgres=told.database == "postgresql") as base,
    ):
        runs = {"ours": ours(told.tasks, base, told.database, told.workers)}
        if told.peer_tasks:
            if told.peer_tasks != told.tasks:
                runs["ours, as many as the peers"] = ours(told.peer_tasks, base, told.database, told.workers)
            runs["the usual recipe"] = recipe(told.peer_tasks, base)
            runs["LiteLLM Router"] = routed(told.peer_tasks)
        if told.hidden:
            runs["ours, limits hidden"] = ours(told.hidden, base, told.database, told.workers, hidden=True)
        first = runs["ours"]
        good = first.ratio <= 1.03 and not first.refused and first.succeeded == told.tasks
        record.aim(
            f"drain of {told.tasks:,} tasks over 4 keys, limits told",
            "ideal",
            "1.03, no refusal, none failed",
            f"{first.ratio:.3f}, {first.refused} refusals, {told.tasks - first.succeeded} failed",
            good,
        )
        blind = runs.pop("ours, limits hidden", None)
        if blind is not None:
            part, refused = 1 / blind.ratio, blind.refused / (blind.refused + told.hidden)
            record.aim(
                f"drain of {told.hidden:,} tasks, limits hidden, from the first call on",
                "true capacity",
                "90 %, refusals 2 %",
                f"{part:.0%}, refusals {refused:.1%}",
                part >= 0.9 and refused <= 0.02,
            )
        for name, one in list(runs.items())[1:]:
            lost = told.peer_tasks - one.succeeded
            record.aim(
                f"drain of {told.peer_tasks:,} tasks: {name}",
                "ideal",
                "",
                f"{one.ratio:.2f}, {one.refused:,} refusals, {lost} lost",
            )
        rows = [
            [name, one.succeeded, f"{one.seconds:.1f}", f"{one.ideal:.1f}", f"{one.ratio:.3f}", one.refused]
            for name, one in runs.items()
        ]
        record.table(
            f"Two workers, {told.database}",
            ["", "succeeded", "seconds", "ideal", "ratio", "refusals met"],
            rows,
        )
        record.settings += [
            "keys of 10, 10, 5, 25 requests a second, 30, 30, 15, 75 at once; answers after 1 s",
            "the recipe: 2 workers, -c 100, wait_random_exponential(1, 60), 6 attempts (the OpenAI cookbook's)",
            "the Router: one deployment a key with rpm and max_parallel_requests, simple-shuffle, num_retries=5",
        ]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
