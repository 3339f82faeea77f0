"""The leader's work per tick with 1,000 and with 1,000,000 rows waiting, on both databases, as a ratio.

The real leader on a real Redis: a release turn, a round of the feeder whose window is full, one that feeds 20 rows, and
every healing job. Both backlogs stand side by side and each piece of work is done on them in turn: a disk that is slow
for a minute is so for both. The first round of a job counts by itself: some of them look at everything only now and
then. CPU is that of the leader, of SQLite within it, and of Redis.

    python -m benchmarks.bench_tick [--quick] [--rows 1000000] [--rounds 30] [--database sqlite|postgresql]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from benchmarks.backlog import Backlog, Shape, close_all
from benchmarks.frame import Record, options, recorded
from benchmarks.ground import Ground, ground
from tests.stack import Key

FEW = 1_000
WINDOW = 400  # messages of the one queue, so that rows wait in the database in both cases
FED = 20  # rows that one measured round feeds
KEYS = [Key("k1", rpm=600, concurrency=10)]
MOST = 1.1
Work = dict[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of one round."""

    wall: float
    cpu: float


def stand(base: Ground, kind: str, rows: int) -> Backlog:
    """Lay a backlog out, fill its window, and let the disk come to rest."""
    backlog = Backlog(base.scratch("leader"), base.database(kind), Shape(rows, held=1), KEYS)
    backlog.fill(0)
    feeder = backlog.leader.feeder
    feeder._size = WINDOW  # the window is no setting
    while backlog.leader.feed() == 0.0:
        pass
    os.sync()  # what laying out has left behind is not what a tick costs
    return backlog


def work_of(backlog: Backlog) -> Work:
    """All that a leader does."""
    leader, feeder = backlog.leader, backlog.leader.feeder

    def feed_some() -> None:
        feeder._size += FED
        leader.feed()

    jobs: Work = {
        "release turn": leader.dispatcher.tick,
        "feeder, window full": leader.feed,
        f"feeder, {FED} rows": feed_some,
    }
    healing = {f"heal: {type(tick.__self__).__name__}": tick for tick in leader.healing}  # type: ignore[attr-defined]
    return jobs | healing


def taken(backlog: Backlog, act: Callable[[], object]) -> Taken:
    """Do it once."""
    cpu, began = backlog.cpu(), perf_counter()
    act()
    ended = perf_counter()
    return Taken((ended - began) * 1000, (backlog.cpu() - cpu) * 1000)


def measure(few: Backlog, many: Backlog, rounds: int) -> dict[str, tuple[list[Taken], list[Taken]]]:
    """Each piece of work on both, in turn, every other round the other way about."""
    works = (work_of(few), work_of(many))
    found: dict[str, tuple[list[Taken], list[Taken]]] = {name: ([], []) for name in works[0]}
    for name, both in found.items():
        for number in range(rounds):
            for at in (0, 1) if number % 2 else (1, 0):
                both[at].append(taken((few, many)[at], works[at][name]))
    return found


def compare(base: Ground, record: Record, kind: str, rows: int, rounds: int) -> bool:
    """Add a table, and the ratios of all work together."""
    backlogs: list[Backlog] = []
    try:
        backlogs += [stand(base, kind, FEW)]
        backlogs += [stand(base, kind, rows)]
        found = measure(*backlogs, rounds)
    finally:
        close_all(backlogs)
    first = {name: [one[0].wall for one in both] for name, both in found.items()}
    wall = {name: [median(t.wall for t in one[1:]) for one in both] for name, both in found.items()}
    cpu = {name: [median(t.cpu for t in one[1:]) for one in both] for name, both in found.items()}
    sums = [[sum(times[at] for times in kept.values()) for at in (0, 1)] for kept in (first, wall, cpu)]
    cells = {name: [first[name], wall[name], cpu[name]] for name in found} | {"all": sums}
    record.table(
        f"{kind}, milliseconds with {FEW:,} rows and with {rows:,}",
        ["work", "first round", "", "median", "", "its CPU", ""],
        [[name, *(f"{value:.1f}" for pair in row for value in pair)] for name, row in cells.items()],
    )
    at_first, ratio, of_cpu = (one[1] / one[0] for one in sums)
    record.aim(
        f"leader's work a tick, {rows:,} rows waiting, {kind}",
        f"itself at {FEW:,}",
        f"{MOST:g}",
        f"{ratio:.2f} (CPU {of_cpu:.2f}, first rounds {at_first:.2f})",
        ratio <= MOST,
    )
    return ratio <= MOST


def main() -> int:
    """Compare on both databases, or one."""
    told = options(__doc__, rows=(1_000_000, 20_000), rounds=(30, 30), database=("both", "sqlite"))
    kinds = ("sqlite", "postgresql") if told.database == "both" else (told.database,)
    with (
        recorded("tick", "The leader's work beside a large backlog", quick=told.quick) as record,
        ground("tick", postgres="postgresql" in kinds) as base,
    ):
        good = [compare(base, record, kind, told.rows, told.rounds) for kind in kinds]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
