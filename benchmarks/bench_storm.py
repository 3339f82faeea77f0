"""A minute in which every call is answered 503: what is lost, what is wasted, and how soon it is forgotten, as ratios.

lost      tasks that did not succeed, over all
wasted    calls answered 503, over all calls that reached the upstream
regained  the part of its capacity that is used from 10 s after the storm on

python -m benchmarks.bench_storm [--quick] [--storm 60] [--database sqlite]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.frame import options, recorded
from benchmarks.ground import ground, service, succeeded
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.latency import Latency
from tests.stack import Key

CAP, LATENCY = 40, 1.0  # calls at once, seconds
CALM, REGAIN, MEASURED = 15.0, 10.0, 15.0  # seconds before, until it should be regained, and measured
MOST_WASTED, LEAST_REGAINED = 0.02, 0.90


def blow(storm: float, folder: Path, database_url: str, redis_url: str) -> dict[str, float]:
    """Run the whole service through a storm."""
    capacity = CAP / LATENCY
    keys = [Key("k1", concurrency=CAP)]
    config = SimulatorConfig(keys={"sk-k1": "k1"}, latency=Latency(mean=LATENCY), seed=1)
    tasks = int(capacity * (CALM + REGAIN + MEASURED + 5))
    with service(config, keys, folder, database_url, redis_url) as (upstream, stack):
        batch = stack.admin.submit_batch(f"Count to {n}." for n in range(tasks))
        time.sleep(CALM)
        upstream.set_faults(Fault("503", until_seconds=storm))
        upstream.start_clock()
        time.sleep(storm + REGAIN)
        before, since = succeeded(upstream), time.monotonic()
        time.sleep(MEASURED)
        after, until = succeeded(upstream), time.monotonic()
        done = stack.admin.finished_batch(batch["id"], within=tasks / capacity * 3 + 60)
        calls = upstream.log()
    wasted = sum(call["outcome"] == "503" for call in calls)
    return {
        "lost": 1 - done["request_counts"]["completed"] / tasks,
        "wasted": wasted / len(calls),
        "regained": min(1.0, (after - before) / (until - since) / capacity),
    }


def main() -> int:
    """Run it and print the ratios."""
    told = options(__doc__, storm=(60.0, 15.0), database=("postgresql", "sqlite"))
    with (
        recorded("storm", "A storm of 503", quick=told.quick) as record,
        ground("storm", postgres=told.database == "postgresql") as base,
    ):
        found = blow(told.storm, base.scratch("stack"), base.database(told.database), base.redis.url)
        storm = f"a storm of 503 for {told.storm:.0f} s"
        lost, wasted, regained = found["lost"], found["wasted"], found["regained"]
        record.aim(f"{storm}: tasks lost", "all", "0", f"{lost:.4f}", not lost)
        record.aim(f"{storm}: calls wasted", "all", "0.02", f"{wasted:.4f}", wasted <= MOST_WASTED)
        regains = regained >= LEAST_REGAINED
        record.aim(f"{storm}: used from 10 s after it on", "capacity", "0.90", f"{regained:.3f}", regains)
    return 0 if not lost and wasted <= MOST_WASTED and regains else 1


if __name__ == "__main__":
    sys.exit(main())
