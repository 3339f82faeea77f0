"""What the cache is worth: a hit's latency against a call's, and throughput and cost with 68 % repeats.

Pairs run one after the other on one stack; read the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, configuration, key_environment

REPEATS = 0.68
KEYS = [Key("main", rpm=1200, concurrency=20, burst=20)]
COLD = {"temperature": 0}


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds that a call takes."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def latencies(caller: Caller, number: int) -> tuple[list[float], list[float]]:
    """Milliseconds of first calls (submitted and waited for), and of hits (answered at submission)."""
    first = [
        timed(lambda n=n: caller.task(caller.submit(f"Latency {n}?", parameters=COLD), wait=30))
        for n in range(number)
    ]
    hits = []
    for n in range(number):
        body = {"prompt": f"Latency {n}?", "parameters": COLD}
        began = time.perf_counter()
        task = caller.call("POST", "/v1/tasks", body).body
        hits.append(1000 * (time.perf_counter() - began))
        assert task["cached"], task
    return first, hits


def prompts(number: int, seed: str) -> list[str]:
    """So many prompts, 68 % of which repeat an earlier one."""
    chance = random.Random(seed)
    fresh = max(1, round(number * (1 - REPEATS)))
    drawn = [f"{seed} {n}" for n in range(fresh)]
    drawn += [chance.choice(drawn) for _ in range(number - fresh)]
    chance.shuffle(drawn)
    return drawn


def drain(caller: Caller, upstream: SimulatorProcess, texts: list[str], cache: str) -> tuple[float, int, int]:
    """Seconds, upstream calls and pico-dollars for a batch of these prompts."""
    before = upstream.stats()["totals"]
    requests = [{"prompt": text, "parameters": COLD, "cache": {"mode": cache}} for text in texts]
    began = time.monotonic()
    batch = caller.call("POST", "/v1/batch", {"requests": requests}).body
    done = caller.finished_batch(batch["id"], within=300)
    seconds = time.monotonic() - began
    assert done["request_counts"]["completed"] == len(texts), done
    after = upstream.stats()["totals"]
    return (
        seconds,
        after["received"] - before["received"],
        after["bill_pico_usd"] - before["bill_pico_usd"],
    )


def run(folder: Path, database_url: str, redis_url: str, tasks: int, hits: int) -> None:
    """Measure on one stack, and print."""
    simulated = SimulatorConfig(keys={"sk-main": "main"}, latency=Latency(mean=0.2), marked=False)
    with SimulatorProcess(simulated) as upstream:
        config = configuration(upstream.base_url, KEYS)
        config = config.replace('name = "sim"', 'name = "sim"\nprices = "deepseek"', 1)
        environment = key_environment(KEYS)
        with Stack(
            folder, config, database_url=database_url, redis_url=redis_url, environment=environment
        ) as stack:
            stack.start_all(callbacks=False)
            caller = Caller(stack.url, stack.admin_key)
            first, hit = latencies(caller, hits)
            off = drain(caller, upstream, prompts(tasks, "without"), "off")
            on = drain(caller, upstream, prompts(tasks, "with"), "write")
    print(f"a call  p50 {statistics.median(first):7.1f} ms   (upstream: 200 ms)")
    print(f"a hit   p50 {statistics.median(hit):7.1f} ms   p95 {statistics.quantiles(hit, n=20)[-1]:.1f} ms")
    print(f"{tasks} tasks, {REPEATS:.0%} repeats    without the cache / with it")
    print(f"seconds         {off[0]:8.2f} / {on[0]:.2f}   throughput x {off[0] / on[0]:.2f}")
    print(f"upstream calls  {off[1]:8} / {on[1]}")
    print(f"micro-dollars   {off[2] // 10**6:8} / {on[2] // 10**6}   cost x {on[2] / off[2]:.2f}")


def main() -> int:
    """Start what is needed and run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--hits", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-cache-") as temporary:
        folder = Path(temporary)
        redis, postgres = RedisServer(folder / "redis"), PostgresServer()
        try:
            run(folder / "stack", postgres.create_database(), redis.url, options.tasks, options.hits)
        finally:
            redis.stop()
            postgres.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
