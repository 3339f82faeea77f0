"""A small client behind one of 50,000 tasks, and equal clients side by side: who starts when.

One key: 20 requests a second, 10 calls at once, answers after 0.4 s. A single task of the small client should start
within twice (mean call + 1/rate) in 99 of 100 cases; of equal clients, each should get the same (Jain's index).
"""

from __future__ import annotations

import sys
import time
from datetime import datetime

from benchmarks.frame import options, percentile, recorded
from benchmarks.ground import ground
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from simulator.limits import Limit
from tests.stack import Caller, Key, Stack, configuration, key_environment

RATE, CAP, CALL_SECONDS = 20.0, 10, 0.4
BOUND = 2 * (CALL_SECONDS + 1 / RATE)
EQUALS = 5


def start_delay(caller: Caller) -> float:
    """Seconds from the submission of one task to the start of its call."""
    task = caller.task(caller.submit("A small one."), wait=60)
    assert task["status"] == "succeeded", task
    created, started = (datetime.fromisoformat(task[name]) for name in ("created_at", "started_at"))
    return (started - created).total_seconds()


def jain(shares: list[int]) -> float:
    """(sum x)^2 / (n sum x^2): 1 when all got the same (Jain, Chiu, Hawe 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def equal_shares(stack: Stack, seconds: float) -> list[int]:
    """What each of several equal clients, all with more than enough waiting, gets in so many seconds."""
    callers = [stack.add_client(f"equal-{n}") for n in range(EQUALS)]
    each = int(RATE * seconds)
    batches = [caller.submit_batch(f"Count to {n}." for n in range(each))["id"] for caller in callers]

    def counts() -> list[int]:
        asked = zip(callers, batches, strict=True)
        return [int(caller.batch(name)["request_counts"]["completed"]) for caller, name in asked]

    time.sleep(2)  # the first to come was alone for a moment
    before = counts()
    time.sleep(seconds)
    after = counts()
    for caller, name in zip(callers, batches, strict=True):
        caller.call("POST", f"/v1/batch/{name}/cancel")
    return [later - earlier for earlier, later in zip(before, after, strict=True)]


def main() -> int:
    """Equal clients first, then the small one behind the large one."""
    told = options(__doc__, large=(50_000, 2000), small=(100, 15), seconds=(25, 8))
    keys = [Key("main", rpm=RATE * 60, concurrency=CAP, burst=2)]
    simulated = SimulatorConfig(
        keys={"sk-main": "main"},
        limits=(Limit(account="main", model="deepseek-flash", concurrency=CAP),),
        latency=Latency(mean=CALL_SECONDS),
    )
    with (
        recorded("fairness", "Fairness", quick=told.quick) as record,
        ground("fairness") as base,
        SimulatorProcess(simulated) as upstream,
        Stack(
            base.scratch("stack"),
            configuration(upstream.base_url, keys),
            database_url=base.database(),
            redis_url=base.redis.url,
            environment=key_environment(keys),
        ) as stack,
    ):
        stack.start_all(callbacks=False)
        shares = equal_shares(stack, told.seconds)
        large, small = stack.add_client("large"), stack.add_client("small")
        large.submit_batch(f"Count to {n}." for n in range(told.large))
        time.sleep(3)
        delays = []
        for _ in range(told.small):
            delays.append(start_delay(small))
            time.sleep(0.05)
        p99, index = percentile(delays, 0.99), jain(shares)
        record.aim(
            f"start of a small client's task behind {told.large:,} of another, p99",
            f"2 x (mean call + 1/rate) = {BOUND:.2f} s",
            "1",
            f"{p99 / BOUND:.2f} ({p99:.2f} s)",
            p99 <= BOUND,
        )
        record.aim(f"Jain's index over {EQUALS} equal clients", "1", "0.99", f"{index:.4f}", index >= 0.99)
        record.table(
            "Seconds until a small task starts",
            ["tasks", "p50", "p90", "p99", "calls of each equal client"],
            [[told.small, *(f"{percentile(delays, q):.2f}" for q in (0.5, 0.9, 0.99)), shares]],
        )
    return 0 if p99 <= BOUND and index >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
