"""Tasks per second through everything, upstream without limit or latency: against bare Celery, and the usual recipe.

From the first submission to the last recorded answer. Ours: one batch over HTTP, two workers, PostgreSQL or SQLite.
Bare: Celery on threads, urllib3, one insert a task into the same database. Recipe: Celery, tenacity, Redis results.
CPU seconds per task are told beside: they are disturbed less by other work on the machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.frame import Record, in_turn, options, ratios, recorded, spread
from benchmarks.ground import Ground, cpu_seconds, ground, pids_of
from benchmarks.rivals import celery_peer
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.stack import Caller, Key, Stack, configuration, key_environment

WORKERS = 2
KEYS = [Key("main", rpm=6_000_000, concurrency=2000, burst=100_000)]
AIMS = {"bare": 0.7, "recipe": 1.2}


def ours(base: Ground, upstream: SimulatorProcess, database: str, tasks: int, workers: int) -> dict[str, Any]:
    """Seconds and CPU milliseconds per task of one batch, on a stack of its own."""
    with Stack(
        base.scratch("stack"),
        configuration(upstream.base_url, KEYS),
        database_url=base.database(database),
        redis_url=base.redis.url,
        environment=key_environment(KEYS),
    ) as stack:
        stack.start_all(workers=workers, callbacks=False)
        caller = Caller(stack.url, stack.admin_key)
        caller.finished_batch(caller.submit_batch(f"Warm {n}." for n in range(100))["id"], within=120)
        pids = pids_of(stack, base)
        before, began = cpu_seconds(pids), time.monotonic()
        batch = caller.submit_batch(f"Count to {n}." for n in range(tasks))
        done = caller.finished_batch(batch["id"], within=600)
        seconds, after = time.monotonic() - began, cpu_seconds(pids)
    assert done["request_counts"]["completed"] == tasks, done
    spent = {_part(name): 0.0 for name in pids}
    for name in pids:
        spent[_part(name)] += (after[name] - before[name]) * 1000 / tasks
    base.empty_redis()
    return {"rate": tasks / seconds, "cpu_ms": spent}


def _part(name: str) -> str:
    return "workers" if name.startswith("worker") else name.partition("-")[0]


def peer(kind: str, base: Ground, upstream: SimulatorProcess, database: str, tasks: int) -> dict[str, Any]:
    """The same of a peer."""
    url = base.database(database) if kind == "inserting" else ""
    with celery_peer(
        kind,
        base.scratch(kind),
        redis=base.redis.url,
        upstream=upstream.base_url,
        keys=["sk-main"],
        database=url,
        workers=WORKERS,
    ) as running:
        running.drive(50, 50)
        pids = {**running.pids, **base.server_pids}
        before = cpu_seconds(pids)
        found = running.drive(tasks, 0)
        after = cpu_seconds(pids)
    assert not found["failed"], found
    spent = {"workers": 0.0, "redis": 0.0, "postgresql": 0.0, "publisher": found["cpu"] * 1000 / tasks}
    for name in pids:
        spent[name if name in spent else "workers"] += (after[name] - before[name]) * 1000 / tasks
    return {"rate": tasks / found["seconds"], "cpu_ms": spent}


def main() -> int:
    """Run all in turn."""
    told = options(
        __doc__,
        tasks=(3000, 600),
        rounds=(2, 1),
        databases=("postgresql,sqlite", "postgresql"),
        growth=("1,4", ""),
    )
    with (
        recorded("throughput", "Through everything", quick=told.quick) as record,
        ground("throughput") as base,
        SimulatorProcess(SimulatorConfig(keys={"sk-main": "main"})) as upstream,
    ):
        for database in told.databases.split(","):
            runs: dict[str, Callable[[], dict[str, Any]]] = {
                "ours": lambda kind=database: ours(base, upstream, kind, told.tasks, WORKERS),
                "bare": lambda kind=database: peer("inserting", base, upstream, kind, told.tasks),
                "recipe": lambda kind=database: peer("recipe", base, upstream, kind, told.tasks),
            }
            found = in_turn(told.rounds, runs)
            rates = {name: [one["rate"] for one in many] for name, many in found.items()}
            for name, aim in AIMS.items():
                ratio = ratios(rates["ours"], rates[name])
                record.aim(
                    f"tasks per second through everything, {database}",
                    {"bare": "Celery + urllib3 + one insert", "recipe": "the usual recipe"}[name],
                    f"{aim}",
                    spread(ratio),
                    sorted(ratio)[len(ratio) // 2] >= aim,
                )
            rows = [[name, spread(rates[name], ".0f"), *_costs(many)] for name, many in found.items()]
            record.table(
                f"{told.tasks} tasks, {database}, {WORKERS} workers",
                ["", "tasks/s", "CPU ms a task", "of which"],
                rows,
            )
            record.figures[database] = {name: [one["cpu_ms"] for one in many] for name, many in found.items()}
            record.figures[f"{database}_rates"] = rates
        growth(record, base, upstream, told.tasks, [int(n) for n in told.growth.split(",") if n])
        record.settings += [
            f"{WORKERS} workers each, threads pool; ours -c 1000 with events for Flower, peers -c 100 without",
            "upstream: the simulator without limits or latency, in a process of its own on the same cores",
            "bare: peers/inserting.py, SQLAlchemy Core, 20 connections, SQLite with WAL and synchronous=FULL",
            "recipe: peers/recipe.py, requests.Session a thread, wait_random_exponential(1, 60), 6 attempts",
        ]
    return 0


def growth(
    record: Record, base: Ground, upstream: SimulatorProcess, tasks: int, numbers: Sequence[int]
) -> None:
    """What a task costs as workers grow; the cores stay the same."""
    rows = []
    for workers in numbers:
        found = ours(base, upstream, "postgresql", tasks, workers)
        rows.append([workers, f"{found['rate']:.0f}", *_costs([found])])
    if rows:
        record.table(
            "Ours with other numbers of workers, postgresql",
            ["workers", "tasks/s", "CPU ms a task", "of which"],
            rows,
        )


def _costs(many: list[dict[str, Any]]) -> list[str]:
    totals = [sum(one["cpu_ms"].values()) for one in many]
    parts = many[-1]["cpu_ms"]
    return [spread(totals), ", ".join(f"{name} {cost:.2f}" for name, cost in parts.items() if cost >= 0.005)]


if __name__ == "__main__":
    sys.exit(main())
