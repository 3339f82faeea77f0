"""Calls in flight in one worker process: 2,000 at once, and the memory that they take.

One worker of 2,000 threads; an upstream that answers after 30 s; memory is the process's resident set.
"""

from __future__ import annotations

import sys
import time

import psutil

from benchmarks.frame import options, recorded
from benchmarks.ground import ground
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until


def resident(pid: int) -> float:
    """Megabytes of a process and its children."""
    process = psutil.Process(pid)
    members = [process, *process.children(recursive=True)]
    return float(sum(one.memory_info().rss for one in members)) / 1e6


def _config(base_url: str, keys: list[Key], calls: int) -> str:
    """One worker of so many threads."""
    text = configuration(base_url, keys)
    return text.replace("[worker]", f"[worker]\nconcurrency = {calls}", 1)


def main() -> int:
    """Fill one worker, and look at it."""
    told = options(__doc__, calls=(2000, 500), answer_after=(30.0, 15.0))
    keys = [Key("main", rpm=600_000, concurrency=told.calls, burst=told.calls)]
    simulated = SimulatorConfig(keys={"sk-main": "main"}, latency=Latency(mean=told.answer_after))
    with (
        recorded("flight", "Calls in flight in one worker process", quick=told.quick) as record,
        ground("flight") as base,
        SimulatorProcess(simulated) as upstream,
        Stack(
            base.scratch("stack"),
            _config(upstream.base_url, keys, told.calls),
            database_url=base.database(),
            redis_url=base.redis.url,
            environment=key_environment(keys),
        ) as stack,
    ):
        stack.start_all(callbacks=False)
        worker = stack.processes["worker-1"].pid
        idle = resident(worker)
        caller = Caller(stack.url, stack.admin_key)
        batch = caller.submit_batch(f"Count to {n}." for n in range(told.calls))
        began = time.monotonic()
        peak, most, full_after = idle, 0, None
        while time.monotonic() - began < told.answer_after:
            most = max(most, upstream.stats()["totals"]["in_flight"])
            peak = max(peak, resident(worker))
            if most >= told.calls and full_after is None:
                full_after = time.monotonic() - began
            time.sleep(0.2)
        done = caller.finished_batch(batch["id"], within=told.answer_after * 3 + 60)
        peak = max(peak, resident(worker))
        wait_until(lambda: upstream.stats()["totals"]["in_flight"] == 0)
        assert done["request_counts"]["completed"] == told.calls, done
        good = most >= told.calls and peak <= 250
        record.aim(
            "calls in flight in one worker process",
            "-",
            f"{told.calls:,} in 250 MB",
            f"{most:,} in {peak:.0f} MB",
            good,
        )
        record.table(
            "One worker",
            ["in flight", "MB idle", "MB at the most", "kB a call", "seconds until all were sent"],
            [
                [
                    most,
                    f"{idle:.0f}",
                    f"{peak:.0f}",
                    f"{(peak - idle) / max(1, most) * 1000:.0f}",
                    "-" if full_after is None else f"{full_after:.1f}",
                ]
            ],
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
