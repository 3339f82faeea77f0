"""Added time of one task on an idle system: submit to result by long poll, against LiteLLM's proxy, less a direct call.

Three calls in turn, round by round, on the same upstream, which answers after 20 ms: a direct one, one through
LiteLLM's proxy, and one through Penstock (POST /v1/tasks, then GET with ?wait), each over connections kept open.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import orjson
import urllib3

from benchmarks.frame import options, percentile, recorded
from benchmarks.ground import ground
from benchmarks.rivals import MODEL, proxy
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from tests.stack import Caller, Key, Stack, configuration, key_environment

UPSTREAM_SECONDS = 0.02
KEYS = [Key("main", rpm=600_000, concurrency=200, burst=1000)]
WARM = 20
PAUSE = 0.02  # seconds between calls: the system is to be idle


def chat(url: str, key: str) -> Callable[[int], None]:
    """A plain chat completion over one kept connection."""
    pool = urllib3.PoolManager(maxsize=1, retries=False)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def call(number: int) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"Count to {number}."}]}
        got = pool.request("POST", url, body=orjson.dumps(body), headers=headers, timeout=30)
        assert got.status == 200, got.data
        orjson.loads(got.data)

    return call


def through(caller: Caller) -> Callable[[int], None]:
    """Submit a task and wait for its end."""

    def call(number: int) -> None:
        task = caller.task(caller.submit(f"Count to {number}."), wait=30)
        assert task["status"] == "succeeded", task

    return call


def milliseconds(call: Callable[[int], None], number: int) -> float:
    """How long a call took."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    call(number)
    return (time.perf_counter() - began) * 1000


def main() -> int:
    """Run all in turn, round by round."""
    told = options(__doc__, rounds=(400, 40), database=("postgresql", "postgresql"))
    simulated = SimulatorConfig(keys={"sk-main": "main"}, latency=Latency(mean=UPSTREAM_SECONDS))
    with (
        recorded("latency", "One task on an idle system", quick=told.quick) as record,
        ground("latency", postgres=told.database == "postgresql") as base,
        SimulatorProcess(simulated) as upstream,
        proxy(base.scratch("litellm"), upstream.base_url, "sk-main") as (proxied, master),
        Stack(
            base.scratch("stack"),
            configuration(upstream.base_url, KEYS),
            database_url=base.database(told.database),
            redis_url=base.redis.url,
            environment=key_environment(KEYS),
        ) as stack,
    ):
        stack.start_all(callbacks=False)
        calls = {
            "direct": chat(f"{upstream.base_url}/chat/completions", "sk-main"),
            "proxy": chat(f"{proxied}/v1/chat/completions", master),
            "ours": through(Caller(stack.url, stack.admin_key)),
        }
        for call in calls.values():
            for number in range(WARM):
                call(number)
        took: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(told.rounds):
            for name, call in calls.items():
                took[name].append(milliseconds(call, number))
        direct = median(took["direct"])
        added = {name: [t - direct for t in took[name]] for name in ("ours", "proxy")}
        figures = {name: (percentile(times, 0.5), percentile(times, 0.99)) for name, times in added.items()}
        (p50, p99), (their50, their99) = figures["ours"], figures["proxy"]
        record.aim(
            f"added time of one task, idle, {told.database}",
            f"LiteLLM proxy {their50:.1f} / {their99:.1f} ms",
            "p50 10 ms, p99 50 ms",
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
            p50 <= 10 and p99 <= 50,
        )
        record.table(
            f"{told.rounds} rounds, milliseconds",
            ["", "p50", "p90", "p99", "p50 added", "p99 added"],
            [
                [
                    name,
                    *(f"{percentile(times, part):.1f}" for part in (0.5, 0.9, 0.99)),
                    *(f"{one:.1f}" for one in figures.get(name, ())),
                    *([""] * (0 if name in figures else 2)),
                ]
                for name, times in took.items()
            ],
        )
        record.settings += [
            "the proxy: `litellm --config` with one deployment, one process, no database, a master key",
            "ours: two requests a task (submit, long poll), one API process, one worker, one dispatcher",
        ]
    return 0 if p50 <= 10 and p99 <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
