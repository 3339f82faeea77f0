"""`penstock reload` on a whole stack: keys come and go, no process starts again, no task is dropped."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from simulator.client import SimulatorProcess
from simulator.config import Latency, SimulatorConfig
from tests.stack import PATIENCE, Answer, Key, Stack, configuration, key_environment, served_by, wait_until

FIRST, SECOND = Key("k1", rpm=240, concurrency=4), Key("k2", rpm=240, concurrency=4)
FRESH = '[[model]]\nname = "fresh"\ntiers = [["k2:deepseek-flash"]]\n'
TASKS = 100


def reload(stack: Stack, config: str) -> subprocess.CompletedProcess[str]:
    (stack.folder / "penstock.toml").write_text(config)
    command = stack._command(["reload"])
    return subprocess.run(
        command, env=stack.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def taken(stack: Stack, body: dict[str, Any]) -> str:
    """A task's id, once the API knows its model."""

    def submitted() -> str | None:
        answer: Answer = stack.admin.call("POST", "/v1/tasks", body)
        return str(answer.body["id"]) if answer.status == 202 else None

    return str(wait_until(submitted, within=PATIENCE, what="the API takes the new model"))


def _is_unknown(stack: Stack, model: str) -> bool:
    return stack.admin.call("POST", "/v1/tasks", {"prompt": "x", "model": model}).status == 400


@pytest.mark.timeout(300)
def test_keys_and_models_come_and_go_without_a_restart(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    keys = {f"sk-{key.name}": key.name for key in (FIRST, SECOND)}
    with SimulatorProcess(SimulatorConfig(keys=keys, latency=Latency(mean=0.2))) as upstream:

        def config(*keys: Key, more: str = "") -> str:
            return configuration(upstream.base_url, keys, more=more)

        with Stack(
            tmp_path / "stack",
            config(FIRST),
            database_url=sqlite_url,
            redis_url=redis_url,
            environment=key_environment([FIRST, SECOND]),
        ) as stack:
            stack.start_all()
            batch = stack.admin.submit_batch(f"Number {n}" for n in range(TASKS))
            wait_until(lambda: len(upstream.log()) > 4, within=PATIENCE)

            good = config(FIRST, SECOND, more=FRESH)
            done = reload(stack, good)
            assert done.returncode == 0, done.stderr
            fresh = taken(stack, {"prompt": "By the new key", "model": "fresh"})
            wait_until(lambda: stack.admin.task(fresh, wait=5)["status"] == "succeeded", within=PATIENCE)
            wait_until(lambda: served_by(stack) == {"k1", "k2"}, within=PATIENCE)

            refused = reload(stack, good + '\n[nonsense]\nwhat = "this"\n')
            assert refused.returncode == 3
            assert f"penstock.toml:{good.count(chr(10)) + 2}" in refused.stderr
            assert served_by(stack) == {"k1", "k2"}

            assert reload(stack, config(SECOND)).returncode == 0
            wait_until(lambda: served_by(stack) == {"k2"}, within=PATIENCE)
            ended = stack.admin.finished_batch(batch["id"])
            calls = [call for call in upstream.log() if call["status"] == 200]
            assert all(process.poll() is None for process in stack.processes.values())
            wait_until(lambda: _is_unknown(stack, "fresh"), within=PATIENCE, what="the API forgets the model")
    assert ended["request_counts"] == {"total": TASKS, "completed": TASKS, "failed": 0}
    assert len(calls) == TASKS + 1  # each once
    assert {str(call["key"]) for call in calls} == {"sk-k1", "sk-k2"}
