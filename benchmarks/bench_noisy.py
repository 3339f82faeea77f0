"""A noisy upstream: a share of all calls fails at random, as long as the drain lasts; ratios to what is left of it.

drain    seconds, over those of the calls it takes: max over quotas of (n / (1 - share) - burst) / rate + mean latency
refused  calls over a configured limit, by the upstream's own count: a bucket that holds one second's worth

The keys are the drain's: 10, 10, 5 and 25 calls a second, three seconds' worth at once, answers after 1 s in the mean.
Tries are enough that no task fails of it, with waits of 0.5 s up to 2 s between them (with full jitter): the end of a
drain waits for those of its last retries.

python -m benchmarks.bench_noisy [--quick] [--tasks 1500] [--cases 500-5,500-25,reset-10] [--database sqlite]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench_drain import LATENCY, RATES, keys, simulator_config
from benchmarks.frame import options, recorded
from benchmarks.ground import ground, service
from simulator.config import SimulatorConfig
from simulator.faults import Fault

MOST_RATIO, NOISE = 1.1, 0.25  # the aim, and the greatest share that it is for
_RETRY = "[retry.default]\nattempts = 25\nbase = 0.5\ncap = 2\n"  # for noise, not for outages
_BLANK_SECONDS = 1.0  # of blank lines before the close: as long as a call


@dataclass(frozen=True, slots=True)
class Case:
    """What fails, and which share of calls."""

    fault: str
    share: float

    @property
    def name(self) -> str:
        """As --cases takes it."""
        return f"{self.fault}-{self.share * 100:.0f}"

    def ideal(self, tasks: int) -> float:
        """Seconds, if every quota is used to the full by calls of which this share fails."""
        total = sum(RATES.values())
        return (tasks / (1 - self.share) - total) / total + LATENCY


CASES = [Case("500", share) for share in (0.05, 0.10, 0.25, 0.50)] + [
    Case("reset", 0.10),
    Case("blank", 0.10),
]


@dataclass(frozen=True, slots=True)
class Found:
    """What a drain came to."""

    seconds: float
    failed: int  # tasks
    refused: int  # calls, by the upstream's count
    outcomes: Counter[str]  # of calls that were admitted


def upstream_config() -> SimulatorConfig:
    """The drain's accounts, each with a bucket of one second's worth: as much as is configured, and no call more."""
    config = simulator_config()
    return replace(config, limits=tuple(replace(limit, burst_seconds=1.0) for limit in config.limits))


def drain(case: Case, tasks: int, folder: Path, database_url: str, redis_url: str) -> Found:
    """Submit all as one batch to an idle stack before an upstream that fails from the first call on."""
    with service(upstream_config(), keys(), folder, database_url, redis_url, more=_RETRY) as (
        upstream,
        stack,
    ):
        upstream.set_faults(Fault(case.fault, rate=case.share, seconds=_BLANK_SECONDS))
        began = time.monotonic()
        batch = stack.admin.submit_batch(f"Count to {n}." for n in range(tasks))
        done = stack.admin.finished_batch(batch["id"], within=8 * case.ideal(tasks) + 120)
        seconds = time.monotonic() - began
        refused = sum(upstream.stats()["totals"]["refused"].values())
        outcomes = Counter(call["outcome"] for call in upstream.log())
    return Found(seconds, done["request_counts"]["failed"], refused, outcomes)


def main() -> int:
    """Run each and print its ratios."""
    told = options(
        __doc__,
        tasks=(1500, 500),
        cases=(",".join(case.name for case in CASES), "500-25,reset-10"),
        database=("postgresql", "sqlite"),
    )
    good, rows = True, []
    with (
        recorded("noisy", "A noisy upstream", quick=told.quick) as record,
        ground("noisy", postgres=told.database == "postgresql") as base,
    ):
        for case in map(_case, told.cases.split(",")):
            folder, url = base.scratch(case.name), base.database(told.database)
            found, ideal = drain(case, told.tasks, folder, url, base.redis.url), case.ideal(told.tasks)
            base.empty_redis()
            ratio, wanted = found.seconds / ideal, case.share <= NOISE
            met = not found.refused and not found.failed and (ratio <= MOST_RATIO or not wanted)
            record.aim(
                f"drain of {told.tasks:,} tasks, {case.share:.0%} of calls: {case.fault}",
                "what is left of the capacity",
                f"{MOST_RATIO if wanted else 'any ratio'}, none beyond a limit, none failed",
                f"{ratio:.2f}, {found.refused} beyond a limit, {found.failed} failed",
                met,
            )
            rows.append(_row(case, found, ideal))
            good = good and met
        record.table(
            f"Limits configured, {told.database}",
            ["failing", "seconds", "ideal", "ratio", "calls", "share that failed", "beyond a limit"],
            rows,
        )
    return 0 if good else 1


def _case(name: str) -> Case:
    fault, _, percent = name.rpartition("-")
    return Case(fault, float(percent) / 100)


def _row(case: Case, found: Found, ideal: float) -> list[object]:
    calls = found.outcomes.total()
    share = f"{found.outcomes[case.fault] / max(1, calls):.3f}"
    ratio = f"{found.seconds / ideal:.3f}"
    return [case.name, f"{found.seconds:.1f}", f"{ideal:.1f}", ratio, calls, share, found.refused]


if __name__ == "__main__":
    sys.exit(main())
