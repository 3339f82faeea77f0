"""Secrets and prompts planted into a full run are nowhere to be read but where they belong."""

import sqlite3
from pathlib import Path

import redis

from app.simulator.client import SimulatorProcess
from app.simulator.config import SimulatorConfig
from tests.stack import Key, Stack, configuration, key_environment, wait_until

PROMPT = "the-planted-goose-prompt"
KEYS = [Key("planted-upstream-key")]
MORE = '[storage]\nencryption_key = "env:CONTENT_KEY"\n'
CONTENT_KEY = "planted-content-key-0123456789"


def test_planted_secrets_and_prompts_are_found_nowhere(tmp_path: Path, redis_url: str) -> None:
    """The run: a task that succeeds, one that fails, a batch, a refusal, administration; content encrypted."""
    upstream = SimulatorProcess(SimulatorConfig(keys={"sk-planted-upstream-key": "a"}))
    file = tmp_path / "stack" / "penstock.db"
    stack = Stack(
        tmp_path / "stack",
        configuration(upstream.base_url, KEYS, more=MORE),
        database_url=f"sqlite:///{file}",
        redis_url=redis_url,
        environment={**key_environment(KEYS), "CONTENT_KEY": CONTENT_KEY},
    )
    try:
        with stack:
            stack.start_all()
            alice = stack.add_client("alice")
            done = alice.submit(PROMPT)
            batch = alice.submit_batch([f"{PROMPT} {n}" for n in range(3)])
            assert alice.task(done, wait=30)["status"] == "succeeded"
            alice.finished_batch(batch["id"], 30)
            refused = alice.call("POST", "/v1/tasks", {"prompt": PROMPT, "nonsense": PROMPT})
            assert refused.status == 400
            paths = ("/v1/admin/clients", "/v1/admin/clients/alice/keys", "/v1/admin/policies", "/metrics")
            shown = [str(stack.admin.call("GET", path).body) for path in paths] + [str(refused.body)]
            check = wait_until(lambda: _linked(stack), what="the audit log is linked")
            assert check["holds"]
            secrets = (PROMPT, "sk-planted", CONTENT_KEY, alice.key, stack.admin_key)
            shown += [stack.penstock("audit", "export"), _everything_in(redis_url)]
        shown += [log.read_text(errors="replace") for log in (tmp_path / "stack").glob("*.log")]
        shown.append(_dump(file))
        for text in shown:
            assert not [secret for secret in secrets if secret in text]
    finally:
        upstream.stop()


def _linked(stack: Stack) -> dict[str, object] | None:
    found = stack.admin.call("GET", "/v1/admin/audit/verify").body
    return dict(found) if found["entries"] > 5 else None


def _everything_in(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return "\n".join(str(client.dump(key)) for key in client.keys("*"))


def _dump(file: Path) -> str:
    with sqlite3.connect(file) as connection:
        return "\n".join(connection.iterdump())
