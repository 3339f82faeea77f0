"""POST /v1/tasks and looking at tasks."""

import math
from typing import Any

import orjson
import pytest

from app.platform.domain.times import parse_instant
from app.tasks.domain.attempt import Outcome, Refusal
from app.tasks.domain.task import Hold, Status
from app.tasks.store.feeding import next_to_feed, promote_due, queues_to_feed
from app.tasks.store.tasks import get_task
from tests.api.world import COMPLETION, MODEL, Client, World


def row_of(world: World, task_id: str) -> Any:
    return world.database.read(lambda conn: get_task(conn, None, task_id))


def test_a_prompt_is_accepted_stored_and_published(world: World, alice: Client) -> None:
    answer = alice.post("/v1/tasks", {"prompt": "hello"})
    assert answer.status_code == 202
    body: Any = answer.json
    assert answer.headers["Location"] == f"/v1/tasks/{body['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["x-request-id"]
    assert (body["object"], body["status"], body["model"], body["priority"]) == (
        "task",
        "queued",
        MODEL,
        "normal",
    )
    (message,) = world.publisher.published
    assert message.task_id == body["id"]
    assert message.queue == f"backlog.{MODEL}.{alice.id}"
    assert message.step == 3
    row = row_of(world, body["id"])
    assert (row.seq, row.fed_at is not None, row.hold) == (message.sequence, True, Hold.NONE)
    assert row.expires_at - row.created_at == 86400
    assert world.claim(body["id"]).request == '{"messages":[{"role":"user","content":"hello"}]}'


def test_what_is_answered_at_once_is_what_is_read_later(alice: Client) -> None:
    fields = {"metadata": {"a": "é"}, "callback_url": "https://example.com/hook", "priority": "low"}
    answer: Any = alice.post("/v1/tasks", {"prompt": "hello", **fields}).json
    read = alice.task(answer["id"])
    assert {**read, "queue": None} == {**answer, "queue": None}
    assert read["metadata"] == {"a": "é"}
    assert read["callback"] == {"url": "https://example.com/hook", "status": None}


def test_parameters_and_messages_go_to_the_upstream_unchanged(world: World, alice: Client) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "你好"}]},
    ]
    parameters = {"temperature": 0.2, "max_tokens": 7, "thinking": {"type": "enabled"}, "stream": False}
    body = {"model": "org/other.model", "messages": messages, "parameters": parameters}
    task_id: Any = alice.post("/v1/tasks", body).json
    request = world.claim(task_id["id"]).request
    assert orjson.loads(request) == {
        "messages": messages,
        "temperature": 0.2,
        "max_tokens": 7,
        "thinking": {"type": "enabled"},
    }
    assert world.publisher.published[0].estimate == math.ceil(30 * 0.3 + 2 * 0.6) + 7  # characters


def test_a_waiting_task_says_where_it_stands(alice: Client) -> None:
    queue = alice.task(alice.submit())["queue"]
    assert queue["position"] == 7
    assert queue["estimated_start_at"].endswith("Z")
    assert queue["waiting_for"] == f"quota of {MODEL}"


def test_a_succeeded_task_shows_result_usage_and_cost(world: World, alice: Client) -> None:
    task_id = alice.submit()
    world.end(task_id)
    task = alice.task(task_id)
    assert (task["status"], task["attempts"], task["queue"], task["error"]) == ("succeeded", 1, None, None)
    assert task["result"] == COMPLETION
    assert task["usage"]["total_tokens"] == 7
    assert task["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert task["cost"] == {"micros": 12, "amount": "0.0000124", "currency": "USD"}
    assert parse_instant(task["created_at"]) <= parse_instant(task["started_at"])
    assert parse_instant(task["started_at"]) <= parse_instant(task["finished_at"])


def test_a_failed_task_shows_why(world: World, alice: Client) -> None:
    task_id = alice.submit()
    world.fail(task_id)
    task = alice.task(task_id)
    assert task["status"] == "failed"
    assert task["error"] == {
        "message": "bad temperature",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
        "upstream_code": None,
    }


@pytest.mark.parametrize("refusal", ["full", "memory", "behind", "epoch", "unreachable"])
def test_what_redis_refuses_waits_for_the_feeder_and_is_accepted_all_the_same(
    world: World, alice: Client, refusal: Refusal
) -> None:
    world.publisher.refusal = refusal
    task_id = alice.submit()
    assert row_of(world, task_id).fed_at is None
    assert world.publisher.rings == 1
    queue = f"backlog.{MODEL}.{alice.id}"
    assert queue in world.database.read(queues_to_feed)
    assert [m.task_id for m in world.database.read(lambda c: next_to_feed(c, queue, 5))] == [task_id]


def test_a_task_for_later_is_not_published(world: World, alice: Client) -> None:
    at = world.parts.clock.now() + 3600
    row = row_of(world, alice.submit(run_at=at, expires_in="10m"))
    assert world.publisher.published == []
    assert (row.hold, row.available_at, row.fed_at) == (Hold.UNTIL, at, None)
    assert row.expires_at == at + 600


def test_a_task_for_earlier_runs_now(world: World, alice: Client) -> None:
    row = row_of(world, alice.submit(run_at="2020-01-01T00:00:00Z"))
    assert (row.hold, row.available_at) == (Hold.NONE, row.created_at)
    assert len(world.publisher.published) == 1


def test_wishes_are_kept(world: World, alice: Client) -> None:
    row = row_of(world, alice.submit(retry="patient", expires_in=60, priority="high"))
    assert (row.retry, row.step) == ("patient", 0)
    assert row.expires_at == row.created_at + 60


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "gpt-17"}, "model", "model_not_found"),
    ({"retry": "never"}, "retry", "unknown_retry_policy"),
    ({"callback_url": "ftp://example.com/"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "example.com"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "https://"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "https://user:pass@example.com/"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "https://example.com/\u0000"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "http://127.0.0.1/"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "http://[::1]/"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "http://10.0.0.1/"}, "callback_url", "invalid_callback_url"),
    ({"callback_url": "http://169.254.169.254/latest"}, "callback_url", "invalid_callback_url"),
    ({"run_at": 4_000_000_000}, "run_at", "invalid_value"),
    ({"parameters": {"stream": True}}, "parameters.stream", "invalid_value"),
    ({"unheard_of": 1}, "unheard_of", "unknown_field"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD)
def test_bad_input_names_its_field_and_stores_nothing(
    world: World, alice: Client, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = alice.post("/v1/tasks", {"prompt": "hello", **fields})
    assert answer.status_code == 400
    error: Any = answer.json
    assert (error["error"]["param"], error["error"]["code"]) == (param, code)
    assert error["error"]["type"] == "invalid_request_error"
    assert alice.get("/v1/tasks").json["data"] == []  # type: ignore[index]
    assert world.publisher.published == []


def test_a_refused_private_address_names_the_setting_that_would_allow_it(alice: Client) -> None:
    answer: Any = alice.post("/v1/tasks", {"prompt": "x", "callback_url": "http://127.0.0.1/"}).json
    assert "callbacks.allow_networks" in answer["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"null", b'"hello"', b"prompt=hello", b"[" * 2000])
def test_a_body_that_is_no_json_object_is_refused(alice: Client, raw: bytes) -> None:
    answer = alice.post("/v1/tasks", raw, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json["error"]["code"] in ("invalid_json", "invalid_type")  # type: ignore[index]


def test_a_body_nested_too_deeply_is_refused(alice: Client) -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    raw = b'{"prompt": "x", "parameters": {"deep": ' + b"[" * 600 + b"]" * 600 + b"}}"
    assert alice.post("/v1/tasks", {"prompt": "x", "parameters": {"deep": deep}}).status_code == 202
    answer = alice.post("/v1/tasks", raw)
    assert answer.status_code == 400
    assert answer.json["error"]["param"] == "parameters"  # type: ignore[index]


def test_a_body_of_more_than_10_mib_is_refused_with_413(alice: Client) -> None:
    answer = alice.post("/v1/tasks", {"prompt": "x" * (10 * 1024 * 1024)})
    assert answer.status_code == 413
    assert answer.json["error"]["code"] == "request_too_large"  # type: ignore[index]
    assert "max_task_body" in answer.json["error"]["message"]  # type: ignore[index]


def test_nul_characters_in_prompts_are_kept(world: World, alice: Client) -> None:
    task_id = alice.submit("a\x00b")
    assert "a\\u0000b" in world.claim(task_id).request


@pytest.mark.parametrize(
    "task_id", ["task_unknown0", "task_", "x", "TASK_1", "task_%00", "batch_1", "%F0%9F%90%9F"]
)
@pytest.mark.parametrize("rest", ["", "/attempts", "/deliveries", "/cancel"])
def test_unknown_and_malformed_ids_are_404(alice: Client, task_id: str, rest: str) -> None:
    answer = alice.call("POST" if rest == "/cancel" else "GET", f"/v1/tasks/{task_id}{rest}")
    assert answer.status_code == 404
    assert answer.json["error"]["param"] == "task_id"  # type: ignore[index]


def test_a_stranger_sees_nothing_of_it(world: World, alice: Client, stranger: Client) -> None:
    task_id = alice.submit()
    for path in ("", "/attempts", "/deliveries", "?wait=1"):
        assert stranger.get(f"/v1/tasks/{task_id}{path}").status_code == 404
    assert stranger.post(f"/v1/tasks/{task_id}/cancel").status_code == 404
    assert stranger.get("/v1/tasks").json["data"] == []  # type: ignore[index]
    assert stranger.get(f"/v1/tasks?after={task_id}").status_code == 400
    assert row_of(world, task_id).status is Status.QUEUED


def test_a_waiting_task_is_cancelled_at_once_and_repeating_it_is_harmless(
    world: World, alice: Client
) -> None:
    task_id = alice.submit()
    for _ in range(2):
        answer = alice.post(f"/v1/tasks/{task_id}/cancel")
        assert answer.status_code == 200
        assert answer.json["status"] == "cancelled"  # type: ignore[index]
    assert task_id in world.publisher.forgotten
    assert task_id in world.publisher.announced


def test_a_running_task_is_asked_to_end(world: World, alice: Client) -> None:
    task_id = alice.submit()
    claimed = world.claim(task_id)
    assert alice.post(f"/v1/tasks/{task_id}/cancel").json["status"] == "running"  # type: ignore[index]
    assert row_of(world, task_id).cancel_requested
    world.record(claimed)
    assert alice.task(task_id)["status"] == "succeeded"


@pytest.mark.parametrize("end", ["end", "fail"])
def test_an_ended_task_cannot_be_cancelled(world: World, alice: Client, end: str) -> None:
    task_id = alice.submit()
    getattr(world, end)(task_id)
    answer = alice.post(f"/v1/tasks/{task_id}/cancel")
    assert answer.status_code == 409
    assert answer.json["error"]["code"] == "task_ended"  # type: ignore[index]


def test_attempts_are_listed_in_order(world: World, alice: Client) -> None:
    task_id = alice.submit()
    at = world.parts.clock.now()
    world.end(
        task_id, outcome=Outcome.OVERLOADED, status=Status.QUEUED, result=None, usage=None, cost=None,
        status_code=503, error_message="busy", available_at=at, counts=False,
    )  # fmt: skip
    world.database.write(lambda conn: promote_due(conn, at, 10))
    world.end(task_id, upstream_request_id="r-1")
    answer: Any = alice.get(f"/v1/tasks/{task_id}/attempts").json
    first, second = answer["data"]
    assert (first["number"], first["outcome"], first["counted"], first["status_code"]) == (
        1,
        "overloaded",
        False,
        503,
    )
    assert (second["number"], second["outcome"], second["upstream_request_id"]) == (2, "succeeded", "r-1")
    assert second["usage"]["total_tokens"] == 7
    assert alice.task(task_id)["attempts"] == 2


def test_a_task_without_attempts_or_deliveries_has_empty_lists(alice: Client) -> None:
    task_id = alice.submit()
    for what in ("attempts", "deliveries"):
        assert alice.get(f"/v1/tasks/{task_id}/{what}").json == {"object": "list", "data": []}
