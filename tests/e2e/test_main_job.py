"""The main job on a real stack: prompts in over HTTP, paced to the upstream, results and callbacks out."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from simulator.limits import Limit
from tests.servers import PostgresServer, RedisServer
from tests.stack import Caller, Key, Stack, key_environment, several_models, wait_until

LATENCY = 0.4  # seconds of every call

# Each test uses a model of its own, so that one stack serves them all.
MODELS = {
    "plain": [Key("plain", rpm=3000, concurrency=40)],
    "unlike": [
        Key("u1", rpm=1200, concurrency=20, burst=20),
        Key("u2", rpm=1200, concurrency=20, burst=20),
        Key("u3", rpm=600, concurrency=10, burst=10),
        Key("u4", rpm=3000, concurrency=50, burst=50),
    ],
    "shared": [Key("s1", "shared", rpm=1200, concurrency=20), Key("s2", "shared")],
    "fair": [Key("fair", rpm=600, concurrency=10)],
    "slow": [Key("slow", rpm=120, concurrency=5)],
}
KEYS = [key for keys in MODELS.values() for key in keys]


class World:
    """A stack over a simulated upstream that enforces the very limits told."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        accounts = {key.account or key.name: key for key in reversed(KEYS)}
        limits = tuple(
            Limit(account=name, model="deepseek-flash", rpm=key.rpm, concurrency=key.concurrency)
            for name, key in accounts.items()
        )
        self.upstream = SimulatorProcess(
            SimulatorConfig(
                keys={f"sk-{key.name}": key.account or key.name for key in KEYS},
                limits=limits,
                latency=Latency(mean=LATENCY),
            )
        )
        self.stack = Stack(
            folder,
            several_models(self.upstream.base_url, MODELS),
            database_url=database_url,
            redis_url=redis_url,
            environment=key_environment(KEYS),
        )
        self.redis_url = redis_url

    @property
    def admin(self) -> Caller:
        return self.stack.admin

    def submit_batch(self, model: str, count: int, caller: Caller | None = None) -> str:
        requests = [{"model": model, "prompt": f"Number {n}"} for n in range(count)]
        answer = (caller or self.admin).call("POST", "/v1/batch", {"requests": requests})
        assert answer.status == 202, answer
        return str(answer.body["id"])

    def finished(self, batch_id: str) -> dict[str, int]:
        done = self.admin.finished_batch(batch_id)["request_counts"]
        return {name: done[name] for name in ("total", "completed", "failed")}

    def calls(self, model: str) -> list[dict[str, Any]]:
        keys = {f"sk-{key.name}" for key in MODELS[model]}
        accounts = {key.account or key.name for key in MODELS[model]}
        return [c for c in self.upstream.log() if c["key"] in keys or c["account"] in accounts]

    def repeated(self, model: str) -> int:
        """How many tasks were called more than once."""
        return sum(1 for times in Counter(c["task"] for c in self.calls(model)).values() if times > 1)

    def refusals(self) -> int:
        return int(sum(self.upstream.stats()["totals"]["refused"].values()))

    def close(self) -> None:
        self.stack.stop()
        self.upstream.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[World]:
    """One stack a database: two dispatchers, two workers."""
    folder = tmp_path_factory.mktemp("main-job")
    server = RedisServer(folder / "redis")
    url = (
        postgres_server.create_database()
        if request.param == "postgresql"
        else f"sqlite:///{folder}/penstock.db"
    )
    made = World(folder / "stack", url, server.url)
    try:
        made.stack.start_all(dispatchers=2, workers=2, callbacks=False)
        yield made
        print(made.stack.logs())
    finally:
        made.close()
        server.stop()


def test_a_prompt_goes_in_and_its_answer_comes_out(world: World) -> None:
    task_id = world.admin.submit("What is a penstock?")
    done = world.admin.task(task_id, wait=60)
    assert done["status"] == "succeeded"
    assert done["simulated"] is True
    assert done["usage"]["prompt_tokens"] > 0
    attempts = world.admin.call("GET", f"/v1/tasks/{task_id}/attempts").body["data"]
    assert [a["outcome"] for a in attempts] == ["succeeded"]


def test_a_drain_over_unlike_keys_meets_no_refusal_and_calls_each_task_once(world: World) -> None:
    assert world.finished(world.submit_batch("unlike", 500)) == {"total": 500, "completed": 500, "failed": 0}
    assert world.refusals() == 0
    assert world.repeated("unlike") == 0
    assert {c["account"] for c in world.calls("unlike")} == {"u1", "u2", "u3", "u4"}


def test_two_keys_of_one_account_stay_within_its_quota_and_bring_what_one_brings(world: World) -> None:
    assert world.finished(world.submit_batch("shared", 120))["completed"] == 120
    assert world.refusals() == 0
    starts = sorted(float(call["arrived_at"]) for call in world.calls("shared"))
    # A burst of at most 20, then 20 a second, as the upstream holds them to; at the pace of half the quota it would
    # take 11 s. The first may come late, and the machine may stumble.
    assert 100 / 20 * 0.8 <= starts[-1] - starts[0] <= 120 / 20 * 1.7


def test_a_small_client_starts_at_once_behind_a_large_ones_backlog(world: World) -> None:
    large, small = world.stack.add_client("large"), world.stack.add_client("small")
    batch = world.submit_batch("fair", 10_000, large)
    wait_until(lambda: len(world.calls("fair")) > 20)
    task_id = small.submit("one small question", model="fair")
    submitted = world.calls("fair")[-1]["sequence"]  # from here on the dispatcher can know of it
    done = small.task(task_id, wait=60)
    assert done["status"] == "succeeded"
    sequence = {call["task"]: call["sequence"] for call in world.calls("fair")}
    # 2 x (mean call + 1/rate) at ten a second, told in calls that were sent meanwhile.
    assert sequence[task_id] - submitted <= 2 * (LATENCY + 0.1) * 10 + 2
    assert large.call("POST", f"/v1/batch/{batch}/cancel").status == 200


def test_redis_emptied_in_mid_run_loses_nothing_and_exceeds_nothing(world: World) -> None:
    before = world.repeated("plain")
    batch = world.submit_batch("plain", 400)
    wait_until(lambda: len(world.calls("plain")) > 60)
    with redis.Redis.from_url(world.redis_url) as client:
        client.flushall()
    assert world.finished(batch) == {"total": 400, "completed": 400, "failed": 0}
    assert world.repeated("plain") == before
    assert world.refusals() == 0


def test_a_killed_leader_is_followed_by_the_other_in_seconds(world: World) -> None:
    before = world.repeated("plain")
    with redis.Redis.from_url(world.redis_url) as client:
        first = client.hget("penstock:gate", "term")
        batch = world.submit_batch("plain", 400)
        seen = len(world.calls("plain"))
        wait_until(lambda: len(world.calls("plain")) > seen + 40)
        leader = next(
            name
            for name in world.stack.processes
            if name.startswith("dispatcher")
            and first.decode() in (world.stack.folder / f"{name}.log").read_text()
        )
        world.stack.kill(leader)
        # Two seconds of silence, as tests/dispatching/test_lead.py has them, and what the machine takes.
        wait_until(lambda: client.hget("penstock:gate", "term") != first, within=20, what="a new leader")
    assert world.finished(batch) == {"total": 400, "completed": 400, "failed": 0}
    assert world.repeated("plain") == before
    assert world.refusals() == 0
    world.stack.start(leader, "dispatcher")


def test_ten_thousand_waiting_tasks_are_cancelled_and_cost_nothing(world: World) -> None:
    batch = world.submit_batch("slow", 10_000)
    assert world.admin.call("POST", f"/v1/batch/{batch}/cancel").status == 200
    assert world.admin.finished_batch(batch)["status"] == "cancelled"
    called = len(world.calls("slow"))
    assert called < 100
    task_id = world.admin.submit("after the flood", model="slow")
    assert world.admin.task(task_id, wait=60)["status"] == "succeeded"
    assert len(world.calls("slow")) == called + 1


def test_a_worker_told_to_stop_drains_and_exits_with_zero(world: World) -> None:
    before = world.repeated("plain")
    batch = world.submit_batch("plain", 200)
    seen = len(world.calls("plain"))
    wait_until(lambda: len(world.calls("plain")) > seen + 20)
    assert world.stack.kill("worker-2", signal.SIGTERM) == 0
    assert world.finished(batch)["completed"] == 200
    assert world.repeated("plain") == before
    world.stack.start("worker-2", "worker", "--name", "worker-2")


def test_a_worker_killed_in_mid_run_loses_nothing(world: World) -> None:
    before = world.repeated("plain")
    batch = world.submit_batch("plain", 300)
    seen = len(world.calls("plain"))
    wait_until(lambda: len(world.calls("plain")) > seen + 60)
    world.stack.kill("worker-1")
    assert world.finished(batch) == {"total": 300, "completed": 300, "failed": 0}
    assert world.repeated("plain") - before <= 40, "only what it held in flight is called again"
    assert world.refusals() == 0
