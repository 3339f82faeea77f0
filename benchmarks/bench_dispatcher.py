"""Dispatcher: microseconds per released task and per idle tick, with 10^3 to 10^6 waiting, many clients, many keys.

The leader's own parts on a real Redis and PostgreSQL: the feeder fills the backlog queues from the database, then turn
by turn the dispatcher releases, permits are redeemed and settled as workers do. CPU is counted, of the leader and of
Redis, as other work on the machine disturbs it least; the feeder and PostgreSQL are counted apart.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from app.adapters.redis_scripts import Scripts, connect
from app.bootstrap import build
from app.db.migrate import upgrade
from app.db.submissions import NewTask, insert_tasks
from app.domain.attempt import Refused, Settlement
from app.domain.outcome import Outcome
from app.domain.queue import backlog_queue
from app.domain.task import new_id
from app.services.begin_epoch import begin_epoch
from app.services.ports import WorkerReport
from app.settings import load_settings
from benchmarks.frame import Record, options, recorded
from benchmarks.ground import Ground, cpu_seconds, ground
from tests.stack import Key, configuration, key_environment
from workers.leader import Leader

MODEL = "deepseek-flash"
TOGETHER = 50  # released in a turn: what frees up while a busy leader looks elsewhere
TURNS = 60
IDLE_TURNS = 200


@dataclass(frozen=True)
class Cost:
    """CPU microseconds."""

    release: float  # per released task: dispatcher and Redis
    tick: float  # per turn in which nothing can go
    feed: float  # per fed task: feeder and PostgreSQL


class Bench:
    """One leader, and a database with so much waiting."""

    def __init__(self, base: Ground, waiting: int, clients: int, keys: int) -> None:
        self.base, self.waiting, self.clients = base, waiting, clients
        told = [Key(f"k{n}", rpm=6e6, concurrency=TOGETHER // keys or 1, burst=1e5) for n in range(keys)]
        folder = base.scratch("leader")
        path = folder / "penstock.toml"
        path.write_text(configuration("http://127.0.0.1:9/v1", told))
        self.url = base.database()
        environment = {
            "DATABASE_URL": self.url,
            "REDIS_URL": base.redis.url,
            "PENSTOCK_ADMIN_KEY": "pk_" + "x" * 43,
            **key_environment(told),
        }
        upgrade(self.url)
        self.parts = build(load_settings(Path(path), environment))
        self.scripts = Scripts(connect(base.redis.url, timeout=60))
        self.scripts.client.flushall()
        self._store()
        self.leader = Leader(self.parts)
        self.keys = tuple(key.name for key in told)

    def _store(self) -> None:
        now = time.time()
        chunk = 20_000
        for start in range(0, self.waiting, chunk):
            rows = [self._row(n, now) for n in range(start, min(self.waiting, start + chunk))]
            self.parts.database.write(lambda conn, rows=rows: insert_tasks(conn, rows))

    def _row(self, number: int, now: float) -> NewTask:
        client = f"client-{number % self.clients}"
        queue = backlog_queue(MODEL, client)
        request = '{"messages":[{"role":"user","content":"Count."}]}'
        return NewTask(
            new_id("task", now), client, MODEL, queue, 3, 100, now, now, now + 86_400, request=request
        )

    def lead(self) -> float:
        """Take the lead, fill the window; gives back CPU microseconds per fed task."""
        leader = self.leader
        assert leader.candidate.try_lead("term") or leader.candidate.try_lead("term")
        leader.reservoir.term = "term"
        begin_epoch(
            leader.gate,
            leader.database,
            leader.dispatcher.topology,
            leader.clock,
            epoch="epoch",
            upstreams=leader.upstream_of_key,
            configure=leader.configure,
            pause=lambda _seconds: False,
        )
        pids = {"postgresql": self.base.server_pids["postgresql"]}
        before, own = cpu_seconds(pids), time.process_time()
        rounds, until = 0, time.monotonic() + 20
        while time.monotonic() < until and (rounds == 0 or leader.feeder.tick() == 0.0):
            rounds += 1
        spent = time.process_time() - own + sum(cpu_seconds(pids).values()) - sum(before.values())
        self.report()
        return spent * 1e6 / max(1, int(self.scripts.client.hlen("penstock:place")))

    def report(self) -> None:
        """A worker says that it is there."""
        self.parts.permits.report(WorkerReport("w1", self.keys, 4000, 0))

    def measure(self) -> Cost:
        """Turns that release, and turns that cannot."""
        feed = self.lead()
        self._turn()  # the first has scripts to load
        self.end_all()
        seconds, released = 0.0, 0
        for _ in range(TURNS):
            self.report()
            spent, done = self._spent()
            seconds, released = seconds + spent, released + done
            self.end_all()
        self._spent()  # every cap is full now, until something is settled
        self.report()
        before = self._cpu()
        for _ in range(IDLE_TURNS):
            self._turn()
        tick = (self._cpu() - before) / IDLE_TURNS
        self.end_all()
        self.parts.database.close()
        return Cost(seconds * 1e6 / released, tick * 1e6, feed)

    def _turn(self) -> int:
        return self.leader.dispatcher.turn().released

    def _cpu(self) -> float:
        """CPU seconds of this process and of Redis, which knows its own to the microsecond."""
        info = self.scripts.client.info("cpu")
        return time.process_time() + float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def _spent(self) -> tuple[float, int]:
        """CPU seconds of turns until nothing more is released, and how many tasks were."""
        before, released = self._cpu(), 0
        while done := self._turn():
            released += done
        return self._cpu() - before, released

    def end_all(self) -> None:
        """What workers would do: redeem what was released, and settle it. Then it waits again."""
        client = self.scripts.client
        for key in self.keys:
            client.delete(f"key.{key}")
        ended = []
        for name in client.hkeys("penstock:permits"):
            permit = self.parts.permits.redeem(name.decode(), "w1")
            if isinstance(permit, Refused):
                continue  # it grew old on a busy machine
            ended.append(
                Settlement(
                    task_id=permit.task_id,
                    release=permit.release,
                    outcome=Outcome.SUCCEEDED,
                    tokens=100,
                    brakes=(),
                    ended=True,
                    called=True,
                    seconds=0.1,
                )
            )
        self.parts.permits.settle(ended)
        if ended:
            self.leader.refeed([one.task_id for one in ended])
            while self.leader.feeder.tick() == 0.0:
                pass


def measured(base: Ground, waiting: int, clients: int, keys: int) -> Cost:
    """One cell of the table."""
    cost = Bench(base, waiting, clients, keys).measure()
    print(
        f"  {waiting:>9,} waiting  {clients:>3} clients  {keys:>2} keys  "
        f"{cost.release:6.0f} us a release  {cost.tick:6.0f} us an idle tick  {cost.feed:5.0f} us a fed task",
        flush=True,
    )
    return cost


def aims(record: Record, found: dict[tuple[int, int, int], Cost], sizes: list[int]) -> bool:
    """Ratios of cost to the smallest backlog, and of 50 keys to one."""
    first, last = sizes[0], sizes[-1]
    good = True

    def compare(what: str, one: float, other: float, size: int, most: float = 1.1) -> None:
        nonlocal good
        good &= one <= most * other
        against = f"itself at {first:,}" if size != first else "itself with 1"
        record.aim(what, against, f"{most:g}", f"{one / other:.2f}", one <= most * other)

    middle = sizes[min(1, len(sizes) - 1)]
    for size, clients in ((middle, 1), (last, 100)):
        here, there = found[size, clients, 1], found[first, clients, 1]
        words = f"{size:,} waiting of {clients} client{'s' if clients > 1 else ''}"
        compare(f"dispatcher, CPU per release, {words}", here.release, there.release, size)
        compare(f"dispatcher, CPU per idle tick, {words}", here.tick, there.tick, size)
    many, one = found[middle, 1, 50], found[middle, 1, 1]
    compare("dispatcher, CPU per release, 50 keys", many.release, one.release, first, 50)
    compare("dispatcher, CPU per idle tick, 50 keys", many.tick, one.tick, first, 50)
    return good


def main() -> int:
    """Fill the table."""
    told = options(__doc__, most=(1_000_000, 20_000))
    sizes = sorted({1000, min(100_000, told.most), told.most})
    middle = sizes[min(1, len(sizes) - 1)]
    cells = [(size, clients, 1) for size in sizes[:-1] for clients in (1, 100)]
    cells += [(middle, 1, 1), (middle, 1, 50), (sizes[-1], 100, 1)]
    with recorded("dispatcher", "Dispatcher", quick=told.quick) as record, ground("dispatcher") as base:
        found = {cell: measured(base, *cell) for cell in sorted(set(cells))}
        good = aims(record, found, sizes)
        record.table(
            "CPU microseconds, leader and Redis; feeding: feeder and PostgreSQL",
            ["waiting", "clients", "keys", "per release", "per idle tick", "per fed task"],
            [
                [f"{w:,}", c, k, f"{cost.release:.0f}", f"{cost.tick:.0f}", f"{cost.feed:.0f}"]
                for (w, c, k), cost in found.items()
            ],
        )
        record.settings += [
            f"{TURNS} rounds of up to {TOGETHER} releases each, then {IDLE_TURNS} turns in which every cap is full",
            "all rows in PostgreSQL; in Redis up to its window (50,000 a queue), as far as 20 s of feeding reach",
        ]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
