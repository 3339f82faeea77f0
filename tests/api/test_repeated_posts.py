"""Idempotency-Key on both POSTs."""

import threading
from typing import Any

import pytest

from tests.api.test_batches import HELLO, NDJSON, as_lines
from tests.api.world import Client, World

BATCH = {"requests": [HELLO, {"prompt": "two"}]}


@pytest.mark.parametrize(("path", "body"), [("/v1/tasks", HELLO), ("/v1/batch", BATCH)])
def test_the_same_request_under_a_key_makes_one_thing_and_has_one_answer(
    world: World, alice: Client, path: str, body: Any
) -> None:
    first = alice.post(path, body, idempotency_key="k")
    again = alice.post(path, body, idempotency_key='"k"')
    assert (first.status_code, again.status_code) == (202, 202)
    one, two = first.json, again.json
    assert {**one, "queue": None} == {**two, "queue": None}  # type: ignore[dict-item]
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(world.publisher.published) == (1 if path == "/v1/tasks" else 0)
    listed: Any = alice.get("/v1/tasks").json
    assert len(listed["data"]) == (1 if path == "/v1/tasks" else 2)


@pytest.mark.parametrize(("path", "body"), [("/v1/tasks", HELLO), ("/v1/batch", BATCH)])
def test_a_key_with_another_payload_is_422_and_makes_nothing(alice: Client, path: str, body: Any) -> None:
    assert alice.post(path, body, idempotency_key="k").status_code == 202
    before: Any = alice.get("/v1/tasks").json
    other = {**body, "metadata": {"other": "payload"}}
    for method_path, again in ((path, other), ("/v1/batch" if path == "/v1/tasks" else "/v1/tasks", body)):
        answer: Any = alice.post(method_path, again, idempotency_key="k")
        expected = 422 if method_path == path else 400  # the other endpoint refuses this body before its key
        assert answer.status_code == expected
    answer = alice.post(path, other, idempotency_key="k")
    assert (answer.json["error"]["param"], answer.json["error"]["code"]) == (
        "Idempotency-Key",
        "idempotency_key_reused",
    )
    after: Any = alice.get("/v1/tasks").json
    assert [task["id"] for task in after["data"]] == [task["id"] for task in before["data"]]


def test_a_key_may_not_pass_from_tasks_to_batches(alice: Client) -> None:
    assert alice.post("/v1/tasks", HELLO, idempotency_key="k").status_code == 202
    assert alice.post("/v1/batch", BATCH, idempotency_key="k").status_code == 422


def test_json_lines_are_repeated_as_well_however_long_they_are(alice: Client) -> None:
    raw = as_lines(*({"prompt": f"p{n}"} for n in range(2100)))
    answers: list[Any] = [
        alice.post("/v1/batch", raw, content_type=NDJSON, idempotency_key="k").json for _ in range(2)
    ]
    assert answers[0] == answers[1]
    longer = alice.post("/v1/batch", raw + b'{"prompt": "x"}', content_type=NDJSON, idempotency_key="k")
    assert longer.status_code == 422
    other_options = alice.post("/v1/batch?batch_size=3", raw, content_type=NDJSON, idempotency_key="k")
    assert other_options.status_code == 422
    listed: Any = alice.get("/v1/tasks?limit=100").json
    assert {task["batch_id"] for task in listed["data"]} == {answers[0]["id"]}


def test_a_repeat_shows_how_the_task_stands_now(world: World, alice: Client) -> None:
    first: Any = alice.post("/v1/tasks", HELLO, idempotency_key="k").json
    world.end(first["id"])
    again: Any = alice.post("/v1/tasks", HELLO, idempotency_key="k")
    assert again.status_code == 202
    assert (again.json["id"], again.json["status"]) == (first["id"], "succeeded")


def test_a_key_is_forgotten_after_24_hours(world: World, alice: Client) -> None:
    first: Any = alice.post("/v1/tasks", HELLO, idempotency_key="k").json
    world.parts.clock.ahead += 86_000
    assert alice.post("/v1/tasks", HELLO, idempotency_key="k").json["id"] == first["id"]  # type: ignore[index]
    world.parts.clock.ahead += 500
    assert alice.post("/v1/tasks", HELLO, idempotency_key="k").json["id"] != first["id"]  # type: ignore[index]


def test_a_refused_request_leaves_its_key_free(alice: Client) -> None:
    assert alice.post("/v1/tasks", {"prompt": ""}, idempotency_key="k").status_code == 400
    assert alice.post("/v1/tasks", HELLO, idempotency_key="k").status_code == 202


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "schlüssel"])
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/batch"])
def test_a_malformed_key_is_refused_by_name(alice: Client, path: str, key: str) -> None:
    answer: Any = alice.post(path, HELLO, idempotency_key=key)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "Idempotency-Key")


def test_keys_of_different_clients_never_meet(alice: Client, stranger: Client) -> None:
    answers: list[Any] = [c.post("/v1/tasks", HELLO, idempotency_key="k").json for c in (alice, stranger)]
    assert answers[0]["id"] != answers[1]["id"]


@pytest.mark.parametrize(("path", "body"), [("/v1/tasks", HELLO), ("/v1/batch", BATCH)])
def test_twenty_at_once_under_one_key_make_one_thing(
    world: World, alice: Client, path: str, body: Any
) -> None:
    answers: list[Any] = []
    start = threading.Barrier(20)

    def post() -> None:
        client = Client(alice.id, alice.key, world.app.test_client())
        start.wait()
        answers.append(client.post(path, body, idempotency_key="k"))

    threads = [threading.Thread(target=post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
