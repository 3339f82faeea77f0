"""Deadlines, windows and the text for when nobody can answer, on the whole service."""

from __future__ import annotations

from pathlib import Path

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.latency import Latency
from tests.stack import Key, Stack, key_environment, several_models, wait_until

KEY = Key("k1", rpm=480, concurrency=1)  # one call after the other, so that their order is seen
STUCK = Key("k2", rpm=0.1)  # its bucket starts empty: nothing goes for ten minutes
MORE = """
degraded = { text = "busy, please try later", after = 2 }
[[calendar]]
name = "always"
zone = "UTC"
hours = ["00:00-24:00"]
weekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
"""


def test_urgent_tasks_pass_a_backlog_and_nobody_waits_longer_than_allowed(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    simulated = SimulatorConfig(keys={"sk-k1": "k1", "sk-k2": "k2"}, latency=Latency(mean=0.05))
    with SimulatorProcess(simulated) as upstream:
        config = several_models(upstream.base_url, {"deepseek-flash": [KEY], "stuck": [STUCK]}, more=MORE)
        config = config.replace('name = "sim"\n', 'name = "sim"\nbusy = ["always"]\n')
        environment = key_environment([KEY, STUCK])
        with Stack(
            tmp_path / "stack", config, database_url=sqlite_url, redis_url=redis_url, environment=environment
        ).start_all(callbacks=False) as stack:
            _judge(stack, upstream)


def _judge(stack: Stack, upstream: SimulatorProcess) -> None:
    alice = stack.admin
    plain = alice.submit_batch(f"Plain {n}" for n in range(44))
    requests = [{"prompt": f"Urgent {n}", "expires_in": 900 - 60 * n, "order": "deadline"} for n in range(6)]
    urgent = alice.call("POST", "/v1/batch", {"requests": requests}).body
    quiet = alice.submit("At night", window="off_peak", expires_in=70)  # let go a minute before its deadline
    assert alice.task(quiet)["queue"]["waiting_for"].startswith("off-peak hours, from ")
    impatient = alice.submit("Anything", model="stuck", allow_degraded=True)
    given = alice.task(impatient, wait=60)
    assert (given["status"], given["degraded"], given["attempts"]) == ("succeeded", True, 0)
    assert given["result"]["choices"][0]["message"]["content"] == "busy, please try later"

    alice.finished_batch(urgent["id"])
    alice.finished_batch(plain["id"])
    starts = [alice.task(task_id)["started_at"] for task_id in urgent["task_ids"]]
    assert starts == sorted(starts, reverse=True)  # the nearest deadline, which came last, first
    later = [task_id for task_id in plain["task_ids"] if alice.task(task_id)["started_at"] > max(starts)]
    assert len(later) >= 15
    wait_until(lambda: alice.task(quiet)["status"] == "succeeded")
    assert alice.task(quiet)["degraded"] is False

    told = alice.call("GET", "/v1/estimates").body
    assert told["tasks"] == 51
    assert told["unestimated"] < 51
    assert told["within_twice"] is not None
    assert upstream.stats()["totals"]["refused"] == {}
    assert len(upstream.log()) == 51
