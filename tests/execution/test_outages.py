"""A worker with a call in its hands, while the database or Redis is away."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulator.config import SimulatorConfig
from simulator.latency import Latency
from tests.execution.world import WorkerWorld
from tests.servers import PostgresServer, RedisServer
from tests.stack import wait_until

MakeWorld = Callable[[str, str], WorkerWorld]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    worlds: list[WorkerWorld] = []

    def make(database_url: str, redis_url: str) -> WorkerWorld:
        """Calls take 3 s."""
        upstream = SimulatorConfig(keys={"sk-key-one": "key-one"}, latency=Latency(mean=3.0))
        worlds.append(WorkerWorld(tmp_path / "stack", database_url, redis_url, upstream=upstream))
        return worlds[-1].start("w1")

    yield make
    for world in worlds:
        world.close()


def succeeded_upstream(world: WorkerWorld) -> int:
    return int(world.simulator.stats()["totals"]["succeeded"])


def slots(world: WorkerWorld) -> list[bytes]:
    return [report for report in world.redis.hvals("penstock:workers") if b'"slots":0' not in report]


def test_a_result_survives_an_outage_of_the_database(
    make_world: MakeWorld, make_postgres: Callable[[], PostgresServer], redis_url: str
) -> None:
    """The row stays the worker's, the answer is kept in memory, and nobody calls the upstream again."""
    postgres = make_postgres()
    world = make_world(postgres.create_database(), redis_url)
    task_id = world.submit()
    wait_until(lambda: world.simulator.stats()["totals"]["in_flight"])
    postgres.kill()
    wait_until(lambda: succeeded_upstream(world) == 1)
    wait_until(lambda: not slots(world), what="no slots while the database is away")
    postgres.restart()
    row = world.wait_for(task_id, "succeeded")
    assert (row.attempts, row.lost) == (1, 0)
    wait_until(lambda: slots(world), what="slots again")
    assert world.simulator.stats()["totals"]["received"] == 1


def test_a_call_ends_and_is_recorded_while_redis_is_away(
    make_world: MakeWorld, make_redis: Callable[..., RedisServer], sqlite_url: str
) -> None:
    """Its permit is settled when Redis is back, and the worker takes the next task."""
    server = make_redis(appendonly=True)
    world = make_world(sqlite_url, server.url)
    task_id = world.submit()
    wait_until(lambda: world.simulator.stats()["totals"]["in_flight"])
    server.kill()
    world.wait_for(task_id, "succeeded")
    assert len(world.attempts(task_id)) == 1
    server.restart()
    world.simulator.configure(latency={"mean": 0.0})
    world.wait_for(world.submit(), "succeeded")
    wait_until(lambda: world.redis.hlen("penstock:permits") == 0, what="permits settled")
    assert world.simulator.stats()["totals"]["received"] == 2
