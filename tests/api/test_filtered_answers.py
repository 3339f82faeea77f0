"""An answer that a filter withheld: a task fails with it, a chat call returns it as OpenAI does; replays say so."""

from __future__ import annotations

import threading
from typing import Any

import orjson
from sqlalchemy import select

from app.tasks.domain.attempt import Finish, Outcome, TaskFailure
from app.tasks.domain.task import Status
from app.tasks.store.tables import task
from tests.api.world import Client, World
from tests.stack import wait_until

CHOICE = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"}
WITHHELD: dict[str, Any] = {
    "outcome": Outcome.CONTENT_REFUSED,
    "status": Status.FAILED,
    "result": orjson.dumps({"id": "c1", "object": "chat.completion", "choices": [CHOICE]}).decode(),
    "finish": Finish.CONTENT_FILTER,
    "failure": TaskFailure("invalid_request_error", "content_filter", "The upstream withheld the answer."),
}
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "tell"}]}


def test_a_chat_call_returns_it_and_its_task_failed(world: World, alice: Client) -> None:
    headers = {"idempotency_key": "k1", "prefer": "respond-async, wait=0"}
    first = alice.post("/v1/chat/completions", BODY, **headers)
    assert (first.status_code, first.headers.get("Idempotent-Replayed")) == (202, None)
    world.end(first.json["id"], **WITHHELD)
    again: Any = alice.post("/v1/chat/completions", BODY, **headers)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.json["choices"] == [CHOICE]
    told = alice.task(first.json["id"])
    assert (told["status"], told["error"]["code"], told["finish"]) == (
        "failed",
        "content_filter",
        "content_filter",
    )
    assert told["result"]["choices"] == [CHOICE]


def test_a_streamed_call_ends_with_its_reason_and_without_an_error(world: World, alice: Client) -> None:
    said: list[bytes] = []
    client = Client(alice.id, alice.key, world.app.test_client())
    asking = threading.Thread(
        target=lambda: said.append(client.post("/v1/chat/completions", {**BODY, "stream": True}).data)
    )
    asking.start()
    mine = select(task.c.id).where(task.c.client_id == alice.id)
    (task_id,) = wait_until(lambda: world.database.read(lambda conn: conn.execute(mine).scalars().all()))
    world.end(task_id, **WITHHELD)
    asking.join(120)
    *_, last, done = said[0].replace(b": waiting\n", b"").strip().split(b"\n\n")
    assert orjson.loads(last.removeprefix(b"data: "))["choices"][0]["finish_reason"] == "content_filter"
    assert done == b"data: [DONE]"


def test_a_batch_counts_it_and_names_it_in_its_results(world: World, alice: Client) -> None:
    batch = alice.submit_batch(2)
    world.end(batch["task_ids"][0], **WITHHELD)
    world.end(batch["task_ids"][1])
    told: Any = alice.get(f"/v1/batch/{batch['id']}").json
    assert told["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert told["finish_counts"] == {"content_filter": 1}
    lines = alice.get(f"/v1/batch/{batch['id']}/results").data.splitlines()
    assert [orjson.loads(line)["finish"] for line in lines] == ["content_filter", "complete"]
