"""Pauses, a revoked key and an empty account, on a whole stack: tasks wait, say why, and go on by themselves."""

from __future__ import annotations

import signal
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
import redis

from simulator.client import SimulatorProcess
from simulator.config import Account, Latency, SimulatorConfig
from tests.stack import PATIENCE, Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("k1", rpm=6000, concurrency=20)]
HEALTH = "[health]\nretest = 0.5\nlongest = 1\n"


def waits_for(stack: Stack, task_id: str, words: str) -> None:
    def says() -> bool:
        task = stack.admin.task(task_id)
        return task["status"] == "queued" and words in (task["queue"]["waiting_for"] or "")

    wait_until(says, within=PATIENCE, what=f"{task_id} waits for {words!r}")


def succeeds(stack: Stack, task_id: str) -> None:
    wait_until(
        lambda: stack.admin.task(task_id, wait=5)["status"] == "succeeded",
        within=PATIENCE,
        what=f"{task_id} succeeds",
    )


def obeyed(stack: Stack, subject: str) -> None:
    """Until the leader has taken the pause up: what comes before may still be released."""

    def told() -> bool:
        with redis.Redis.from_url(stack.environment["REDIS_URL"]) as client:
            said = client.get("penstock:why")
        return said is not None and subject in orjson.loads(said)["dispatcher"]["pauses"]

    wait_until(told, within=PATIENCE, what=f"{subject} is obeyed")


def first_line(stack: Stack, words: str) -> None:
    def said() -> str:
        return str(stack.admin.call("GET", "/v1/admin/dispatcher").body["holdup"]["words"])

    wait_until(lambda: said().startswith(words), within=PATIENCE, what=f"the first line is {words}")


def state(stack: Stack) -> str:
    return str(stack.admin.call("GET", "/v1/admin/keys").body["data"][0]["state"])


@pytest.mark.timeout(300)
def test_what_is_paused_or_refused_waits_says_so_and_goes_on(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    world = SimulatorConfig(keys={"sk-k1": "k1"}, latency=Latency(mean=0.05))
    with SimulatorProcess(world) as upstream:
        config = configuration(upstream.base_url, KEYS, more=HEALTH)
        with Stack(
            tmp_path / "stack",
            config,
            database_url=sqlite_url,
            redis_url=redis_url,
            environment={**key_environment(KEYS), "PENSTOCK_URL": "", "PENSTOCK_API_KEY": ""},
        ) as stack:
            stack.environment["PENSTOCK_URL"] = stack.url
            stack.environment["PENSTOCK_API_KEY"] = stack.admin_key
            stack.start_all(callbacks=False)
            _a_pause_outlives_the_leader(stack)
            _a_revoked_key(stack, upstream)
            _an_empty_account(stack, upstream)
            shown = stack.penstock("keys")
            # The leader tells how things stand about once a second.
            shown += wait_until(lambda: said if "nothing waits" in (said := stack.penstock("status")) else "")
            assert "sk-k1" not in shown


def _a_pause_outlives_the_leader(stack: Stack) -> None:
    assert "paused: model deepseek-flash" in stack.penstock("pause", "--model", "deepseek-flash")
    obeyed(stack, "model:deepseek-flash")
    paused = stack.admin.submit("While it is paused")
    waits_for(stack, paused, "paused by an operator: model deepseek-flash")
    stack.kill("dispatcher-1", signal.SIGTERM)
    stack.start("dispatcher-1", "dispatcher")
    first_line(stack, "paused by an operator: model deepseek-flash")
    waits_for(stack, paused, "paused by an operator: model deepseek-flash")
    assert stack.admin.call("POST", "/v1/admin/pauses/end", {"model": "deepseek-flash"}).body["data"] == []
    succeeds(stack, paused)


def _a_revoked_key(stack: Stack, upstream: SimulatorProcess) -> None:
    assert "the key works (status 200" in stack.penstock("keys", "test", "k1")
    upstream.configure(keys={"sk-another": "k1"})
    waiting = stack.admin.submit("While the only key is revoked")
    waits_for(stack, waiting, "key k1 is disabled")
    first_line(stack, "the upstream: sim refuses, key k1 is disabled")
    assert state(stack) == "disabled"
    upstream.configure(keys={"sk-k1": "k1"})
    succeeds(stack, waiting)
    wait_until(lambda: state(stack) == "active", within=PATIENCE)


def _an_empty_account(stack: Stack, upstream: SimulatorProcess) -> None:
    upstream.configure(accounts={"k1": Account(Decimal(0))})
    waiting = stack.admin.submit("While there is no money")
    waits_for(stack, waiting, "account k1 has no balance left")
    upstream.configure(accounts={"k1": Account(Decimal(5))})
    succeeds(stack, waiting)
