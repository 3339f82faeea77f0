"""The real Flower over HTTP, as `penstock up` starts it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3

from app.platform.domain.names import redis_list
from app.tasks.domain.task import PriorityStep
from tests.cli.running import environment, http, wait_until
from tests.e2e.up import Up

pytestmark = pytest.mark.xdist_group("up")

QUEUE = "backlog.slow/model.v1.bob"
PLANTED = "PLANTED-PROMPT-9731"


class Flower:
    """Its pages and its API."""

    def __init__(self, up: Up) -> None:
        self.url = up.profile.flower_url
        self.headers = urllib3.make_headers(basic_auth=up.profile.flower_auth)

    def answer(self, path: str, method: str = "GET", **what: Any) -> urllib3.BaseHTTPResponse:
        """Whatever it answers."""
        got = http(method, self.url + path, **{"headers": self.headers, **what})
        assert got is not None
        return got

    def lengths(self) -> dict[str, int]:
        """Every queue on the broker page with its length."""
        queues = self.answer("/api/queues/length").json()["active_queues"]
        return {queue["name"]: queue["messages"] for queue in queues}

    def task(self, task_id: str) -> dict[str, Any]:
        """What it knows of a task; empty when nothing."""
        got = self.answer(f"/api/task/info/{task_id}")
        return dict(got.json()) if got.status == 200 else {}

    def worker(self) -> str:
        """A worker that it knows well: of one that was slow to answer its look around it has no page."""

        def known() -> str:
            named = self.answer("/api/workers?refresh=1").json()
            return next((name for name in named if self.answer(f"/worker/{name}").status == 200), "")

        return str(wait_until(known, told=lambda: str(self.answer("/api/workers").json())))

    def state(self, task_id: str) -> str | None:
        """A task's state."""
        return self.task(task_id).get("state")


@pytest.fixture(scope="module")
def flower(up: Up) -> Flower:
    """The Flower of the running service."""
    return Flower(up)


@pytest.fixture(scope="module")
def bob(up: Up) -> str:
    """The API key of a client who has tasks waiting for a slow key, singly and as a batch: ten minutes' worth."""
    key = up.add_client("bob")["api_key"]
    for number in range(10):
        up.call("POST", "/v1/tasks", {"model": "slow/model.v1", "prompt": f"{PLANTED} {number}"}, key)
    requests = [{"prompt": f"{PLANTED} {number}", "model": "slow/model.v1"} for number in range(300)]
    up.call("POST", "/v1/batch", {"requests": requests}, key)
    return key


@pytest.mark.usefixtures("bob")
def test_every_backlog_and_key_queue_appears_by_itself_with_its_true_length(up: Up, flower: Flower) -> None:
    wait_until(lambda: flower.lengths().get(QUEUE), told=lambda: str(flower.lengths()))
    with redis.Redis.from_url(up.profile.redis_url) as client:

        def waiting() -> int:
            return sum(client.llen(redis_list(QUEUE, step)) for step in PriorityStep)

        before, shown, after = waiting(), flower.lengths(), waiting()
    assert after <= shown[QUEUE] <= before
    assert {"key.main", "key.slow", "callbacks", QUEUE} <= set(shown)
    assert shown["key.slow"] <= 1
    page = flower.answer("/broker").data.decode()
    assert QUEUE in page
    assert "key.slow" in page


def test_a_single_task_is_found_by_its_pasted_id_while_it_waits(up: Up, flower: Flower, bob: str) -> None:
    task = up.call("POST", "/v1/tasks", {"model": "slow/model.v1", "prompt": PLANTED}, bob)
    wait_until(lambda: flower.task(task["id"]))
    assert up.call("GET", f"/v1/tasks/{task['id']}", key=bob)["status"] == "queued"
    assert flower.state(task["id"]) == "PENDING"
    assert flower.answer(f"/task/{task['id']}").status == 200


def test_a_task_of_a_batch_is_found_from_its_release_on(up: Up, flower: Flower) -> None:
    batch = up.call("POST", "/v1/batch", {"requests": [{"prompt": PLANTED}]})
    task_id = batch["task_ids"][0]
    wait_until(lambda: flower.state(task_id) == "SUCCESS", told=lambda: str(flower.task(task_id)))


def test_a_failed_task_is_failure_and_tells_neither_prompt_nor_secret(up: Up, flower: Flower) -> None:
    image = {
        "type": "image_url",
        "image_url": {"url": "https://example.com/a.png"},
    }  # the simulator takes texts alone
    content = [{"type": "text", "text": PLANTED}, image]
    task = up.call("POST", "/v1/tasks", {"messages": [{"role": "user", "content": content}]})
    assert up.call("GET", f"/v1/tasks/{task['id']}?wait=60")["status"] == "failed"
    wait_until(lambda: flower.state(task["id"]) == "FAILURE", told=lambda: str(flower.task(task["id"])))
    assert PLANTED not in str(flower.task(task["id"]))


def test_no_page_shows_a_prompt_or_a_secret(up: Up, flower: Flower, bob: str) -> None:
    task = up.call("POST", "/v1/tasks", {"prompt": PLANTED}, bob)
    wait_until(lambda: flower.state(task["id"]) == "SUCCESS")
    worker = flower.worker()
    table = (
        "?draw=1&start=0&length=500&search[value]=&order[0][column]=0&columns[0][data]=name&order[0][dir]=asc"
    )
    pages = [
        "/",
        "/tasks",
        f"/task/{task['id']}",
        "/broker",
        f"/worker/{worker}",
        "/api/tasks",
        "/api/workers",
    ]
    pages += [
        "/api/workers?refresh=1",
        f"/tasks/datatable{table}",
        f"/api/task/info/{task['id']}",
        "/metrics",
    ]
    for page in pages:
        got = flower.answer(page)
        assert got.status == 200, (
            page,
            (up.folder / ".penstock" / "logs" / "flower.log").read_text()[-3000:],
        )
        shown = got.data.decode()
        assert PLANTED not in shown, page
        assert "sk-simulated" not in shown, page
        assert up.profile.api_key not in shown, page


def test_without_the_password_nothing_is_shown(up: Up, flower: Flower) -> None:
    for page in ("/", "/broker", "/api/queues/length", "/api/tasks"):
        assert flower.answer(page, headers={}).status == 401
        wrong = urllib3.make_headers(basic_auth="penstock:wrong")
        assert flower.answer(page, headers=wrong).status == 401
    assert up.profile.flower_url.startswith("http://127.0.0.1:")


def test_nothing_can_be_done_through_it(flower: Flower) -> None:
    worker = flower.worker()
    for deed in (f"worker/shutdown/{worker}", "task/revoke/task_1?terminate=false", "task/send-task/x"):
        assert flower.answer(f"/api/{deed}", "POST", body=b"{}").status == 403


def test_a_revoked_task_is_cancelled(up: Up, bob: str) -> None:
    task = up.call("POST", "/v1/tasks", {"model": "slow/model.v1", "prompt": PLANTED}, bob)
    revoke = [sys.executable, "-m", "celery", "-A", "workers", "control", "revoke", task["id"]]
    env = environment(
        REDIS_URL=up.profile.redis_url,
        DATABASE_URL=up.profile.database_url,
        PENSTOCK_CONFIG=str(up.folder / ".penstock" / "simulation" / "penstock.toml"),
    )
    done = subprocess.run(revoke, env=env, cwd=Path(os.sep), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"OK", done.stdout)
    wait_until(lambda: up.call("GET", f"/v1/tasks/{task['id']}", key=bob)["status"] == "cancelled")
