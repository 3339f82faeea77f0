"""Refused requests on a whole stack: others are served meanwhile, the refused one ends, and a limited key is left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from simulator.client import SimulatorProcess
from simulator.config import Latency, SimulatorConfig
from tests.stack import Key, Stack, configuration, key_environment

KEYS = [Key(name, rpm=6000, concurrency=20) for name in ("k1", "k2", "k3")]


def started(folder: Path, config: str, sqlite_url: str, redis_url: str) -> Stack:
    environment = key_environment(KEYS)
    return Stack(folder, config, database_url=sqlite_url, redis_url=redis_url, environment=environment)


@pytest.mark.timeout(300)
def test_what_an_upstream_refuses_of_one_client_stalls_no_other(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    world = SimulatorConfig(keys={f"sk-{key.name}": key.name for key in KEYS}, latency=Latency(mean=0.05))
    with SimulatorProcess(world) as upstream:
        config = configuration(upstream.base_url, KEYS)
        with started(tmp_path / "stack", config, sqlite_url, redis_url) as stack:
            stack.start_all(callbacks=False)
            hostile, honest = stack.add_client("hostile"), stack.add_client("honest")
            for status in (401, 402, 403):
                upstream.set_faults({"name": str(status), "contains": "flagged"})
                flagged = [hostile.submit(f"flagged {status} {number}") for number in range(20)]
                harmless = honest.submit_batch(f"harmless {status} {number}" for number in range(50))
                began = time.monotonic()
                done = honest.finished_batch(harmless["id"], within=30)
                assert done["request_counts"] == {"total": 50, "completed": 50, "failed": 0}
                print(f"{status}: 50 harmless calls in {time.monotonic() - began:.1f} s")
                if status == 403:
                    ended = [hostile.task(task, wait=30) for task in flagged]
                    assert {(task["status"], task["error"]["code"]) for task in ended} == {
                        ("failed", "request_forbidden")
                    }
                    assert all(task["attempts"] <= 3 for task in ended)
            states = {one["state"] for one in stack.admin.call("GET", "/v1/admin/keys").body["data"]}
            assert states == {"active"}


@pytest.mark.timeout(300)
def test_the_task_that_a_limited_key_refused_is_done_by_the_next_tier(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    world = SimulatorConfig(keys={f"sk-{key.name}": key.name for key in KEYS}, latency=Latency(mean=0.05))
    with SimulatorProcess(world) as upstream:
        config = configuration(upstream.base_url, KEYS)
        config = config.replace('"k1:deepseek-flash", ', '"k1:deepseek-flash"], [')
        with started(tmp_path / "stack", config, sqlite_url, redis_url) as stack:
            stack.start_all(callbacks=False)
            rule = {"name": "429-retry-after", "account": "k1", "contains": "limited", "retry_after": 600}
            upstream.set_faults(rule)
            began = time.monotonic()
            task = stack.admin.task(stack.admin.submit("limited"), wait=60)
            print(f"served elsewhere after {time.monotonic() - began:.1f} s")
            assert (task["status"], task["attempts"]) == ("succeeded", 2), task["queue"]
            made = stack.admin.call("GET", f"/v1/tasks/{task['id']}/attempts").body["data"]
            assert [one["outcome"] for one in made] == ["rate_limited", "succeeded"]
