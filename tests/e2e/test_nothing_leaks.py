"""Secrets and prompts planted into a full run are nowhere to be read but where they belong."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import urllib3

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from tests.cli.running import http
from tests.ports import kept_port
from tests.stack import Caller, Key, Stack, configuration, key_environment, wait_until

PROMPT = "the-planted-goose-prompt"
BAD = f"{PROMPT}-that-is-refused"
KEYS = [Key("planted-upstream-key")]
MORE = '[storage]\nencryption_key = "env:CONTENT_KEY"\n'
CONTENT_KEY = "planted-content-key-0123456789"
FLOWER_WORD = "planted-flower-password"
FLOWER_PAGES = (
    "/",
    "/workers",
    "/tasks",
    "/broker",
    "/api/tasks",
    "/api/workers",
    "/api/queues/length",
    "/metrics",
)


@pytest.mark.timeout(300)
def test_planted_secrets_and_prompts_are_found_nowhere(tmp_path: Path, redis_url: str) -> None:
    """The run: a task that succeeds, one that the upstream refuses in words that quote its prompt, a batch, a file,
    a refusal, administration; content encrypted; Flower watches all of it.
    """
    file = tmp_path / "stack" / "penstock.db"
    with _upstream() as upstream:
        stack = Stack(
            tmp_path / "stack",
            configuration(upstream.base_url, KEYS, more=MORE),
            database_url=f"sqlite:///{file}",
            redis_url=redis_url,
            environment={
                **key_environment(KEYS),
                "CONTENT_KEY": CONTENT_KEY,
                "PENSTOCK_FLOWER_AUTH": f"ops:{FLOWER_WORD}",
            },
        )
        with stack:
            stack.start_all()
            flower = _Flower(stack)
            alice = stack.add_client("alice")
            ended = _work(alice)
            for task_id, state in ended.items():
                wait_until(lambda name=task_id: flower.state(name), what=f"{task_id} in Flower")
                wait_until(lambda name=task_id, want=state: flower.state(name) == want, what=state)
            refused = alice.call("POST", "/v1/tasks", {"prompt": PROMPT, "nonsense": PROMPT})
            assert refused.status == 400
            paths = ("/v1/admin/clients", "/v1/admin/clients/alice/keys", "/v1/admin/policies", "/metrics")
            shown = [str(stack.admin.call("GET", path).body) for path in paths] + [str(refused.body)]
            shown += [flower.page(path) for path in (*FLOWER_PAGES, *(f"/task/{name}" for name in ended))]
            check = wait_until(lambda: _linked(stack), what="the audit log is linked")
            assert check["holds"]
            secrets = (PROMPT, "sk-planted", CONTENT_KEY, FLOWER_WORD, alice.key, stack.admin_key)
            shown += [stack.penstock("audit", "export"), _everything_in(redis_url)]
        shown += [log.read_text(errors="replace") for log in (tmp_path / "stack").glob("*.log")]
        shown.append(_dump(file))
    for text in shown:
        assert not [secret for secret in secrets if secret in text]


@contextmanager
def _upstream() -> Iterator[SimulatorProcess]:
    """It refuses one prompt, and says which."""
    refusal = Fault("400", contains=BAD, message=f"I will not answer {BAD}")
    upstream = SimulatorProcess(SimulatorConfig(keys={"sk-planted-upstream-key": "a"}, faults=(refusal,)))
    try:
        yield upstream
    finally:
        upstream.stop()


def _work(alice: Caller) -> dict[str, str]:
    """Gives back tasks and what Flower should say of them."""
    done, failed = alice.submit(PROMPT, metadata={"about": PROMPT}), alice.submit(BAD)
    batch = alice.submit_batch([f"{PROMPT} {n}" for n in range(3)])
    assert alice.task(done, wait=60)["status"] == "succeeded"
    assert BAD in alice.task(failed, wait=60)["error"]["message"]  # whose prompt it is may read it
    alice.finished_batch(batch["id"])
    body = f'{{"custom_id": "{PROMPT}"}}\n'
    form = {"purpose": "user_data", "file": ("lines.jsonl", body)}
    answer = alice.pool.request(
        "POST", f"{alice.url}/v1/files", fields=form, headers={"authorization": f"Bearer {alice.key}"}
    )
    assert answer.status == 200, answer.data
    return {done: "SUCCESS", failed: "FAILURE"}


class _Flower:
    """Its pages, behind its password."""

    def __init__(self, stack: Stack) -> None:
        port = kept_port()
        stack.start("flower", "flower", "--port", str(port))
        self._url = f"http://127.0.0.1:{port}"
        self._headers = urllib3.make_headers(basic_auth=f"ops:{FLOWER_WORD}")
        wait_until(lambda: http("GET", f"{self._url}/healthcheck"), what="Flower")
        # It listens to the workers by a thread of its own, and misses what is said before that has begun.
        wait_until(self._hears, what="Flower hears the workers")

    def _hears(self) -> bool:
        return bool(json.loads(self.page("/workers?json=1"))["data"])

    def page(self, path: str) -> str:
        answer = http("GET", self._url + path, headers=self._headers)
        assert answer is not None
        assert answer.status == 200, (path, answer.status)
        return answer.data.decode()

    def state(self, task_id: str) -> str | None:
        answer = http("GET", f"{self._url}/api/task/info/{task_id}", headers=self._headers)
        return answer.json()["state"] if answer is not None and answer.status == 200 else None


def _linked(stack: Stack) -> dict[str, object] | None:
    found = stack.admin.call("GET", "/v1/admin/audit/verify").body
    return dict(found) if found["entries"] > 5 else None


def _everything_in(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return "\n".join(str(client.dump(key)) for key in client.keys("*"))


def _dump(file: Path) -> str:
    with sqlite3.connect(file) as connection:
        return "\n".join(connection.iterdump())
