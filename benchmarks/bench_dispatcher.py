"""Dispatcher: microseconds per released task and per idle tick, with 10^3 to 10^6 waiting, many clients, many keys.

The leader's own parts on a real Redis and PostgreSQL: turn by turn the dispatcher releases, permits are redeemed and
settled as workers do, and what ended is fed anew by the feeder. All backlogs stand side by side, each with a Redis of
its own, and are measured in turn, so that what else the machine does meets all of them. CPU is counted, of the leader
and of Redis, as other work on the machine disturbs it least; the feeder and PostgreSQL are counted apart.

    python -m benchmarks.bench_dispatcher [--quick] [--most 1000000] [--rounds 30]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from statistics import median

from app.tasks.domain.attempt import Outcome, RefusedPermit, Settlement
from benchmarks.backlog import ESTIMATE, Backlog, Shape, close_all
from benchmarks.frame import Record, options, ratios, recorded, spread
from benchmarks.ground import Ground, cpu_seconds, ground
from tests.stack import Key

TOGETHER = 50  # released in a turn: what frees up while a busy leader looks elsewhere
IDLE_TURNS = 10  # of one round
PARTS = 5  # ratios are told of so many parts of the run
FEW, MIDDLE = 1_000, 100_000
KEYS = 50


@dataclass
class Bench:
    """One backlog, and what was measured of it, round by round, in CPU microseconds."""

    backlog: Backlog
    postgres: dict[str, int]
    release: list[float] = field(default_factory=list)  # per released task: dispatcher and Redis
    idle: list[float] = field(default_factory=list)  # per turn in which nothing can go
    fed: list[int] = field(default_factory=list)
    feeding: list[float] = field(default_factory=list)  # feeder and PostgreSQL

    def round(self) -> None:
        """Release all that the caps allow, turn idly, end all calls, feed as many anew."""
        backlog = self.backlog
        backlog.report()
        before, released = backlog.cpu(), 0
        while done := self._turn():
            released += done
        self.release.append((backlog.cpu() - before) * 1e6 / max(1, released))
        before = backlog.cpu()
        for _ in range(IDLE_TURNS):
            self._turn()
        self.idle.append((backlog.cpu() - before) * 1e6 / IDLE_TURNS)
        self._end_all()

    def forget(self) -> None:
        """The first rounds have scripts to load, and connections to make."""
        for kept in (self.release, self.idle, self.fed, self.feeding):
            kept.clear()

    @property
    def feed(self) -> float:
        """Per fed task."""
        return sum(self.feeding) * 1e6 / max(1, sum(self.fed))

    def _turn(self) -> int:
        return self.backlog.leader.dispatcher.tick().released

    def _end_all(self) -> None:
        """What workers would do: redeem what was released, and settle it. Then it waits again."""
        backlog = self.backlog
        client, permits = backlog.scripts.client, backlog.parts.permits
        for key in backlog.keys:
            client.delete(f"key.{key}")
        redeemed = (permits.redeem(name.decode(), "w1") for name in client.hkeys("penstock:permits"))
        ended = [
            Settlement(
                task_id=permit.task_id,
                release=permit.release,
                outcome=Outcome.SUCCEEDED,
                tokens=ESTIMATE,
                brakes=(),
                ended=True,
                called=True,
                seconds=0.1,
            )
            for permit in redeemed
            if not isinstance(permit, RefusedPermit)  # it grew old on a busy machine
        ]
        permits.settle(ended)
        if ended:
            backlog.leader.requeueing.remember([one.task_id for one in ended])
            backlog.leader.requeueing.flush()
            self._feed(len(ended))

    def _feed(self, count: int) -> None:
        before, own = cpu_seconds(self.postgres), time.process_time()
        while self.backlog.leader.feeder.tick() == 0.0:
            pass
        after = cpu_seconds(self.postgres)
        self.feeding.append(time.process_time() - own + sum(after.values()) - sum(before.values()))
        self.fed.append(count)


def stand(base: Ground, shape: Shape) -> Bench:
    """Lay a backlog out."""
    told = [
        Key(f"k{n}", rpm=6e6, concurrency=max(1, TOGETHER // shape.keys), burst=1e5)
        for n in range(shape.keys)
    ]
    began = time.monotonic()
    backlog = Backlog(base.scratch("leader"), base.database(), shape, told)
    backlog.fill(shape.fed)
    print(f"  {_words(shape)}: laid out in {time.monotonic() - began:.0f} s", flush=True)
    return Bench(backlog, {"postgresql": base.server_pids["postgresql"]})


def _words(shape: Shape) -> str:
    clients = "1 client" if shape.clients == 1 else f"{shape.clients} clients"
    keys = "1 key" if shape.keys == 1 else f"{shape.keys} keys"
    return f"{shape.waiting:,} waiting of {clients}, {keys}"


def measure(benches: list[Bench], rounds: int) -> None:
    """All of them in turn, every other round the other way about."""
    for number in range(-2, rounds):
        if number == 0:
            for bench in benches:
                bench.forget()
        for bench in benches if number % 2 else reversed(benches):
            bench.round()


def _in_parts(rounds: list[float]) -> list[float]:
    """The mean of each part of a run."""
    size = -(-len(rounds) // PARTS)
    parts = [rounds[at : at + size] for at in range(0, len(rounds), size)]
    return [sum(part) / len(part) for part in parts]


def compare(record: Record, found: dict[Shape, Bench], sizes: list[int]) -> bool:
    """Ratios of cost to the smallest backlog, and of many keys to one."""
    good = True
    pairs = [
        (Shape(size, clients), Shape(sizes[0], clients), f"itself at {sizes[0]:,}", 1.1)
        for clients in (1, 100)
        for size in sizes[1:]
    ]
    pairs += [(Shape(sizes[-1], 1, KEYS), Shape(sizes[-1]), "itself with 1 key", float(KEYS))]  # linear
    for one, other, against, most in pairs:
        for what, name in (("release", "release"), ("idle tick", "idle")):
            here, there = getattr(found[one], name), getattr(found[other], name)
            each = ratios(_in_parts(here), _in_parts(there))
            met = median(each) <= most
            words = f"dispatcher, CPU per {what}, {_words(one)}"
            record.aim(words, against, f"{most:g}", spread(each), met)
            good &= met
    return good


def main() -> int:
    """Fill the table."""
    told = options(__doc__, most=(1_000_000, 20_000), rounds=(30, 10))
    sizes = sorted({FEW, min(MIDDLE, told.most), told.most})
    shapes = [Shape(size, clients) for clients in (1, 100) for size in sizes]
    shapes += [Shape(sizes[-1], 1, KEYS)]
    with recorded("dispatcher", "Dispatcher", quick=told.quick) as record, ground("dispatcher") as base:
        found: dict[Shape, Bench] = {}
        try:
            for shape in shapes:
                found[shape] = stand(base, shape)
            measure(list(found.values()), told.rounds)
        finally:
            close_all(bench.backlog for bench in found.values())
        good = compare(record, found, sizes)
        record.table(
            "CPU microseconds, leader and Redis; feeding: feeder and PostgreSQL",
            ["waiting", "in Redis", "clients", "keys", "per release", "per idle tick", "per fed task"],
            [
                [
                    f"{shape.waiting:,}",
                    f"{shape.fed:,}",
                    shape.clients,
                    shape.keys,
                    spread(_in_parts(bench.release), ".0f"),
                    spread(_in_parts(bench.idle), ".0f"),
                    f"{bench.feed:.0f}",
                ]
                for shape, bench in found.items()
            ],
        )
        record.settings += [
            f"{told.rounds} rounds over all backlogs in turn: up to {TOGETHER} releases, then {IDLE_TURNS} idle turns",
            "a turn is idle while every cap is full; spreads are of five parts of the run",
            "all rows in PostgreSQL; in Redis as many as its window takes (50,000 a queue, 500,000 in all)",
        ]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
