"""Hidden limits: nothing is told, and seconds 10 to 70 of a cold start are measured, as ratios to the true capacity.

used     calls admitted a second, over what the upstream could take
refused  refusals, over all calls that reached it

python -m benchmarks.bench_learned [--quick] [--cases cap-20,rate-40] [--until 70] [--database sqlite]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.frame import options, recorded
from benchmarks.ground import ground, service
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from simulator.limits import Limit
from tests.stack import Key, wait_until

FROM = 10.0  # seconds from the first call
LEAST_USED, MOST_REFUSED = 0.90, 0.02
MODEL = "deepseek-flash"
ONE_SECOND = Latency("lognormal", 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class Case:
    """An upstream with limits that nobody is told."""

    cap: int | None = None
    rate: float | None = None  # calls a second
    latency: Latency = ONE_SECOND

    @property
    def capacity(self) -> float:
        """Calls a second that it can take."""
        by_cap = self.cap / self.latency.mean if self.cap else float("inf")
        return min(by_cap, self.rate or float("inf"))


CASES = {
    "cap-20": Case(cap=20),
    "cap-60": Case(cap=60),
    "rate-10": Case(rate=10.0),
    "rate-40": Case(rate=40.0),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What was reached."""

    used: float
    refused: float
    calls: int


def measure(case: Case, folder: Path, database_url: str, redis_url: str, until: float) -> Measured:
    """Start the whole service cold with more work than can be done, and count at the upstream."""
    limit = Limit(account="k1", model=MODEL, rpm=case.rate * 60 if case.rate else None, concurrency=case.cap)
    config = SimulatorConfig(keys={"sk-k1": "k1"}, limits=(limit,), latency=case.latency, seed=1)
    keys = [Key("k1")]
    with service(config, keys, folder, database_url, redis_url) as (upstream, stack):
        tasks = int(case.capacity * (until + 20))
        stack.admin.submit_batch(f"Count to {n}." for n in range(tasks))
        wait_until(lambda: upstream.stats()["totals"]["received"] > 0, within=30, every=0.02)
        began = time.monotonic()
        counts = []
        for at in (FROM, until):
            time.sleep(max(0.0, began + at - time.monotonic()))
            counts.append((time.monotonic(), *_counted(upstream)))
    (since, admitted, refused), (end, admitted_then, refused_then) = counts
    calls, met = admitted_then - admitted, refused_then - refused
    return Measured(calls / (end - since) / case.capacity, met / max(1, calls + met), calls + met)


def _counted(upstream: SimulatorProcess) -> tuple[int, int]:
    """Calls admitted and calls refused so far."""
    totals = upstream.stats()["totals"]
    refused = sum(totals["refused"].values())
    return totals["received"] - refused, refused


def main() -> int:
    """Run each and print its ratios."""
    told = options(
        __doc__,
        cases=(",".join(CASES), "cap-20"),
        until=(70.0, 40.0),
        database=("postgresql", "sqlite"),
    )
    good = True
    with (
        recorded("learned", "Hidden limits", quick=told.quick) as record,
        ground("learned", postgres=told.database == "postgresql") as base,
    ):
        for name in told.cases.split(","):
            folder, url = base.scratch(name), base.database(told.database)
            found = measure(CASES[name], folder, url, base.redis.url, told.until)
            base.empty_redis()
            met = found.used >= LEAST_USED and found.refused <= MOST_REFUSED
            record.aim(
                f"hidden limits, {name}, seconds 10 to {told.until:.0f} of a cold start",
                "true capacity",
                "90 %, refusals 2 %",
                f"{found.used:.3f}, refusals {found.refused:.4f}",
                met,
            )
            good = good and met
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
