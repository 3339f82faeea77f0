"""One of three accounts is revoked in mid-run: its load moves and nothing fails, as ratios.

failed  tasks that did not succeed, over all
moved   the part of the other accounts' capacity that is used from 3 s after it on
met     calls refused with 401, over all calls that reached the upstream

python -m benchmarks.bench_revoked [--quick] [--seconds 25] [--database sqlite]
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
from simulator.limits import Limit
from tests.stack import Key, wait_until

ACCOUNTS = ("k1", "k2", "k3")
CAP, LATENCY = 20, 1.0  # calls at once of each, seconds
MODEL = "deepseek-flash"
SETTLED = 3.0  # seconds after the revocation
LEAST_MOVED, MOST_MET = 0.90, 0.05


def revoke(seconds: float, folder: Path, database_url: str, redis_url: str) -> dict[str, float]:
    """Run the whole service, take one account away, and count what the others serve."""
    keys = [Key(name, concurrency=CAP) for name in ACCOUNTS]
    left = CAP / LATENCY * (len(ACCOUNTS) - 1)  # calls a second
    config = SimulatorConfig(
        keys={f"sk-{name}": name for name in ACCOUNTS},
        limits=tuple(Limit(account=name, model=MODEL, concurrency=CAP) for name in ACCOUNTS),
        latency=Latency(mean=LATENCY),
        seed=1,
    )
    tasks = int(CAP / LATENCY * len(ACCOUNTS) * 10 + left * (seconds + 5))
    with service(config, keys, folder, database_url, redis_url) as (upstream, stack):
        batch = stack.admin.submit_batch(f"Count to {n}." for n in range(tasks))
        wait_until(lambda: succeeded(upstream) > tasks / 10, within=60)
        upstream.set_faults(Fault("401", key="sk-k1"))
        time.sleep(SETTLED)
        before, since = succeeded(upstream), time.monotonic()
        time.sleep(seconds)
        after, until = succeeded(upstream), time.monotonic()
        done = stack.admin.finished_batch(batch["id"], within=tasks / left * 3 + 60)
        calls = upstream.log()
    refused = sum(call["status"] == 401 for call in calls)
    return {
        "failed": 1 - done["request_counts"]["completed"] / tasks,
        "moved": min(1.0, (after - before) / (until - since) / left),
        "met": refused / len(calls),
    }


def main() -> int:
    """Run it and print the ratios."""
    told = options(__doc__, seconds=(25.0, 10.0), database=("postgresql", "sqlite"))
    with (
        recorded("revoked", "A revoked account", quick=told.quick) as record,
        ground("revoked", postgres=told.database == "postgresql") as base,
    ):
        found = revoke(told.seconds, base.scratch("stack"), base.database(told.database), base.redis.url)
        failed, moved, met = found["failed"], found["moved"], found["met"]
        what = "one of three accounts revoked"
        record.aim(f"{what}: tasks failed", "all", "0", f"{failed:.4f}", not failed)
        moves = moved >= LEAST_MOVED
        record.aim(
            f"{what}: used from 3 s after it on", "the others' capacity", "0.90", f"{moved:.3f}", moves
        )
        record.aim(f"{what}: calls refused", "all", "0.05", f"{met:.4f}", met <= MOST_MET)
    return 0 if not failed and moves and met <= MOST_MET else 1


if __name__ == "__main__":
    sys.exit(main())
