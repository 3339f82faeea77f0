"""Faults under load: nothing accepted is lost, no quota exceeded, every callback delivered.

The short form runs with every test run; `make chaos` sets CHAOS_TASKS and does each fault in turn, then at random.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.chaos.auditor import audit
from tests.chaos.world import KEYS, ChaosWorld, recovery, wait_for
from tests.stack import wait_until

TASKS = int(os.environ.get("CHAOS_TASKS", "500"))
LONG = TASKS > 500
PACE = sum(key.rpm or 0 for key in KEYS) / 60

Fault = Callable[[ChaosWorld], None]


def kill_worker(world: ChaosWorld) -> None:
    world.kill("worker-1")


def kill_leader(world: ChaosWorld) -> None:
    for name in ("dispatcher-1", "dispatcher-2"):
        world.kill(name)


def kill_api(world: ChaosWorld) -> None:
    world.kill("api-1")


def kill_callback_worker(world: ChaosWorld) -> None:
    world.kill("callbacks")


def drain_worker(world: ChaosWorld) -> None:
    assert world.drain("worker-2") == 0, "SIGTERM drains and exits with 0"


def flush_redis(world: ChaosWorld) -> None:
    world.flush_redis()


def cut_connections(world: ChaosWorld) -> None:
    world.cut_redis_connections()


def restart_redis_empty(world: ChaosWorld) -> None:
    world.flush_redis()
    world.redis.kill()
    wait_for(1.0)
    world.redis.restart()


def restart_redis(world: ChaosWorld) -> None:
    world.redis.restart()


def freeze_redis(world: ChaosWorld) -> None:
    world.redis.pause()
    wait_for(20.0)
    world.redis.resume()


def redis_out_of_reach(world: ChaosWorld) -> None:
    world.redis.kill()
    wait_for(60.0)
    world.redis.restart()


def drop_database_connections(world: ChaosWorld) -> None:
    with psycopg.connect(world.database_url.replace("+psycopg", ""), autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


SHORT: list[Fault] = [kill_worker, kill_leader, kill_api, kill_callback_worker, flush_redis, cut_connections]
ALL: list[Fault] = [
    *SHORT,
    drain_worker,
    restart_redis,
    restart_redis_empty,
    freeze_redis,
    redis_out_of_reach,
    drop_database_connections,
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ChaosWorld]:
    made = ChaosWorld(tmp_path)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.mark.timeout(3600 if LONG else 240)
def test_every_law_holds_under_kills_flushes_and_cut_connections(
    world: ChaosWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = threading.Event()
    submitting = threading.Thread(target=world.submit, args=(TASKS, stop), daemon=True)
    submitting.start()
    chance = random.Random(20261121)
    faults = [*ALL, *chance.choices(ALL, k=8)] if LONG else SHORT
    lines = []
    for fault in faults:
        before = world.sent()
        wait_until(
            lambda least=before: world.sent() >= least + 20 or not world.open_rows(), within=90, every=0.1
        )
        fault(world)
        if LONG and world.open_rows() > 600:
            seconds = recovery(world, 0.9 * PACE, 40.0)
            lines.append(f"     {fault.__name__}: back to 90 % of pace after {seconds:.0f} s")
    submitting.join(120)
    stop.set()
    assert len(world.accepted) == TASKS
    world.settle(within=1200 if LONG else 120)
    findings = audit(world.evidence())
    with capsys.disabled():
        print(
            "\n"
            + "\n".join(
                [*lines, *map(str, findings), f"     restarted by its supervisor: {dict(world.restarts)}"]
            )
        )
    assert all(finding.held for finding in findings)
