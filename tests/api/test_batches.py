"""/v1/batch: taken in whole or not at all."""

import gzip
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, func, select

from app.dispatching.housekeeping import CleanUp
from app.submission.check_request import Place, draft_task
from app.submission.domain.request import BatchRequest, TaskRequest
from app.submission.submission_rules import rules_of
from app.tasks.domain.attempt import Finish
from app.tasks.domain.task import Hold, new_id
from app.tasks.store.feeding import queues_to_feed
from app.tasks.store.submissions import NewBatch, discard_intake, insert_batch, insert_tasks, stale_intakes
from app.tasks.store.tables import task
from tests.api.test_tasks import row_of
from tests.api.world import ADMIN_KEY, COMPLETION, MODEL, Client, World
from tests.stack import wait_until

HELLO = {"prompt": "hello"}
NDJSON = "application/x-ndjson"


def as_lines(*requests: Any) -> bytes:
    return b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in requests) + b"\n"


def post_lines(client: Client, raw: bytes, query: str = "", media: str = NDJSON, **headers: str) -> Any:
    return client.post(f"/v1/batch{query}", raw, content_type=media, **headers)


def results_of(client: Client, batch_id: str) -> list[Any]:
    answer = client.get(f"/v1/batch/{batch_id}/results")
    assert answer.status_code == 200
    assert answer.mimetype == "application/jsonl"
    return [orjson.loads(line) for line in answer.data.splitlines()]


def nothing_is_left(world: World, client: Client) -> bool:
    listed: Any = client.get("/v1/tasks").json
    waiting = f"backlog.{MODEL}.{client.id}" in world.database.read(queues_to_feed)
    now = world.parts.clock.now()
    return (
        listed["data"] == []
        and not waiting
        and world.database.read(lambda c: stale_intakes(c, now, 10)) == []
    )


@pytest.mark.parametrize(
    "body",
    [
        {"requests": [{"prompt": "one", "parameters": {"temperature": 0.5}}, {"prompt": "two"}]},
        {
            "requests": [{"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}] * 2,
            "batch_size": 5,
        },
    ],
)
@pytest.mark.parametrize("path", ["/v1/batch", "/api/v1/batch"])
def test_the_two_known_bodies_work_verbatim(world: World, alice: Client, body: Any, path: str) -> None:
    answer = alice.post(path, body)
    assert answer.status_code == 202
    batch: Any = answer.json
    assert answer.headers["Location"] == f"/v1/batch/{batch['id']}"
    assert answer.headers["Retry-After"]
    assert (batch["object"], batch["status"]) == ("batch", "in_progress")
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert batch["batch_size"] == body.get("batch_size")
    assert len(batch["task_ids"]) == 2
    assert world.publisher.rings == 1
    assert world.publisher.published == []  # the feeder does all of it
    assert {**alice.get(f"{path}/{batch['id']}").json, "task_ids": batch["task_ids"]} == batch


def test_tasks_of_a_batch_know_their_place(world: World, alice: Client) -> None:
    body = {"requests": [{**HELLO, "custom_id": "a"}, {**HELLO, "priority": "high"}], "priority": "low"}
    first, second = alice.post("/v1/batch", body).json["task_ids"]  # type: ignore[index]
    one, two = alice.task(first), alice.task(second)
    assert (one["custom_id"], one["priority"], two["custom_id"], two["priority"]) == (
        "a",
        "low",
        None,
        "high",
    )
    assert one["batch_id"] == two["batch_id"]
    assert [row_of(world, t).batch_index for t in (first, second)] == [0, 1]


@pytest.mark.parametrize("media", [NDJSON, "application/jsonl", "application/x-ndjson; charset=utf-8"])
def test_json_lines_are_taken_with_options_in_the_query(world: World, alice: Client, media: str) -> None:
    raw = b"\xef\xbb\xbf" + as_lines(HELLO, b"", {"prompt": "two", "custom_id": "2"}) + b"\r\n  "
    answer = post_lines(alice, raw, "?batch_size=1&priority=high&expires_in=1h", media)
    assert answer.status_code == 202, answer.data
    batch: Any = answer.json
    assert (batch["request_counts"]["total"], batch["batch_size"]) == (2, 1)
    rows = [row_of(world, task_id) for task_id in batch["task_ids"]]
    assert [row.hold for row in rows] == [Hold.NONE, Hold.BATCH]
    assert {row.step for row in rows} == {0}
    assert rows[0].expires_at == pytest.approx(rows[0].created_at + 3600)


def test_a_batch_in_several_chunks_keeps_its_order(world: World, alice: Client) -> None:
    raw = as_lines(*({"prompt": f"p{n}", "custom_id": f"c{n}"} for n in range(2500)))
    batch = post_lines(alice, raw).json
    assert batch["request_counts"]["total"] == 2500
    assert len(batch["task_ids"]) == 1000
    listed: Any = alice.get(f"/v1/tasks?batch_id={batch['id']}&limit=100").json
    assert [task["custom_id"] for task in listed["data"]] == [f"c{n}" for n in range(2499, 2399, -1)]
    for task_id in (batch["task_ids"][0], batch["task_ids"][999]):
        world.end(task_id)
    assert [line["custom_id"] for line in results_of(alice, batch["id"])] == ["c0", "c999"]


BAD_LINES: list[tuple[bytes, int, str | None, str]] = [
    (b"", 400, "requests", "missing_field"),
    (b"\n \n", 400, "requests", "missing_field"),
    (as_lines(HELLO, b"{"), 400, "requests[1]", "invalid_json"),
    (as_lines(HELLO, b"[]"), 400, "requests[1]", "invalid_type"),
    (as_lines(HELLO, {"prompt": ""}), 400, "requests[1].prompt", "invalid_value"),
    (as_lines(HELLO, {**HELLO, "model": "gpt-17"}), 400, "requests[1].model", "model_not_found"),
    (as_lines(HELLO, {**HELLO, "retry": "x"}), 400, "requests[1].retry", "unknown_retry_policy"),
    (as_lines(HELLO, {**HELLO, "callback_url": "x"}), 400, "requests[1].callback_url", "invalid_callback_url"),
    (as_lines(HELLO, {**HELLO, "run_at": 9e9}), 400, "requests[1].run_at", "invalid_value"),
    (as_lines(HELLO, {**HELLO, "parameters": {"stream": True}}), 400, "requests[1].parameters.stream", "invalid_value"),
    (as_lines({**HELLO, "custom_id": "a"}, {**HELLO, "custom_id": "a"}), 400, "requests[1].custom_id",
     "duplicate_custom_id"),
    (as_lines(*[HELLO] * 2100, {"prmpt": 1}), 400, "requests[2100].prmpt", "unknown_field"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "status", "param", "code"), BAD_LINES)
def test_a_bad_line_is_named_and_nothing_of_the_batch_stays(
    world: World, alice: Client, raw: bytes, status: int, param: str, code: str
) -> None:
    answer = post_lines(alice, raw)
    assert (answer.status_code, answer.json["error"]["param"], answer.json["error"]["code"]) == (
        status,
        param,
        code,
    )
    assert nothing_is_left(world, alice)


def test_a_bad_line_says_which_line_of_the_file_it_was(alice: Client) -> None:
    message = post_lines(alice, as_lines(HELLO, b"", b"", b"{")).json["error"]["message"]
    assert message.startswith("line 4: ")


BAD_OPTIONS = [
    ("?batch_size=0", "batch_size"),
    ("?batch_size=many", "batch_size"),
    ("?callback_url=http://10.0.0.1/", "callback_url"),
    ("?model=gpt-17", "model"),
    ("?retry=never", "retry"),
    ("?expires_in=40d", "expires_in"),
    ("?size=4", "size"),
]


@pytest.mark.parametrize(("query", "param"), BAD_OPTIONS)
def test_bad_options_of_a_batch_are_named(world: World, alice: Client, query: str, param: str) -> None:
    answer = post_lines(alice, as_lines(HELLO), query)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert nothing_is_left(world, alice)


@pytest.mark.parametrize(("query", "param"), [("?batch_size=5", "batch_size"), ("?dryrun=true", "dryrun")])
def test_options_beside_a_json_body_are_refused_not_overlooked(
    world: World, alice: Client, query: str, param: str
) -> None:
    answer = alice.post(f"/v1/batch{query}", {"requests": [HELLO]})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert nothing_is_left(world, alice)


def test_a_body_that_breaks_off_leaves_nothing(world: World, alice: Client) -> None:
    raw = as_lines(*[HELLO] * 1500)
    answer = alice.http.post(
        "/v1/batch",
        data=raw,
        environ_overrides={"CONTENT_LENGTH": str(len(raw) + 9), "wsgi.input_terminated": True},
        headers={"authorization": f"Bearer {alice.key}", "content-type": NDJSON},
    )
    assert answer.status_code == 400
    assert nothing_is_left(world, alice)


def test_while_a_batch_comes_in_nobody_sees_or_runs_any_of_it(world: World, alice: Client) -> None:
    seen: list[bool] = []
    later = world.parts.clock.now() + 60

    def requests() -> Iterator[TaskRequest]:
        for number in range(2500):
            if number == 2400:
                (coming_in,) = wait_until(  # chunks are stored behind the reading
                    lambda: world.database.read(lambda c: stale_intakes(c, later, 10)), what="the intake"
                )
                assert alice.get(f"/v1/batch/{coming_in}").status_code == 404
                seen.append(alice.get("/v1/tasks").json["data"] == [])  # type: ignore[index]
                seen.append(f"backlog.{MODEL}.{alice.id}" not in world.database.read(queues_to_feed))
            yield TaskRequest([{"role": "user", "content": "x"}])

    world.app.use_cases.submit_batch.submit(alice.id, BatchRequest(), requests())
    assert seen == [True, True]
    assert f"backlog.{MODEL}.{alice.id}" in world.database.read(queues_to_feed)


def begin_an_intake(world: World, client: Client, tasks: int) -> str:
    """As a process leaves it that dies in the middle."""
    now = world.parts.clock.now()
    batch = NewBatch(new_id("batch", now), client.id, now, now + 86400)
    rules = rules_of(world.parts.settings)

    def store(conn: Connection) -> None:
        insert_batch(conn, batch)
        for index in range(tasks):
            place = Place(batch.id, index, BatchRequest(), batch.expires_at)
            row = draft_task(TaskRequest([{"role": "user", "content": "x"}]), client.id, rules, now, place)
            insert_tasks(conn, [row])

    world.database.write(store)
    return batch.id


def test_an_intake_that_died_with_its_process_is_cleaned_hours_later(world: World, alice: Client) -> None:
    batch_id = begin_an_intake(world, alice, 5)
    clock = world.parts.clock
    chore = CleanUp(world.database, clock)
    clock.ahead += 3600
    chore.tick()
    assert batch_id in world.database.read(lambda c: stale_intakes(c, clock.now(), 10))
    clock.ahead += 3700
    chore.tick()
    assert world.database.read(lambda c: stale_intakes(c, clock.now(), 10)) == []
    assert (
        world.database.read(lambda c: c.scalar(select(func.count()).where(task.c.batch_id == batch_id))) == 0
    )


def test_cleaning_never_touches_a_batch_that_has_begun(world: World, alice: Client) -> None:
    batch = alice.submit_batch(3)
    world.parts.clock.ahead += 30_000
    CleanUp(world.database, world.parts.clock).tick()
    assert not world.database.write(lambda c: discard_intake(c, batch["id"], 10))
    assert alice.get(f"/v1/batch/{batch['id']}").json["request_counts"]["total"] == 3  # type: ignore[index]


def test_results_come_in_the_order_of_the_requests_while_it_runs(world: World, alice: Client) -> None:
    batch = alice.submit_batch(4, metadata={"job": "7"})
    ids = batch["task_ids"]
    world.end(ids[2])
    world.fail(ids[0])
    lines = results_of(alice, batch["id"])
    assert [(line["index"], line["task_id"], line["status"]) for line in lines] == [
        (0, ids[0], "failed"),
        (2, ids[2], "succeeded"),
    ]
    assert lines[0]["error"]["code"] == "invalid_request"
    assert (lines[0]["result"], lines[0]["usage"], lines[0]["cost"]) == (None, None, None)
    assert lines[1]["result"] == COMPLETION
    assert (lines[1]["usage"]["total_tokens"], lines[1]["cost"]["micros"]) == (7, 12)
    shown: Any = alice.get(f"/v1/batch/{batch['id']}")
    assert shown.json["request_counts"] == {"total": 4, "completed": 1, "failed": 1}
    assert shown.json["metadata"] == {"job": "7"}
    assert shown.headers["Retry-After"]


def test_a_batch_completes_with_its_last_task(world: World, alice: Client) -> None:
    batch = alice.submit_batch(2)
    for task_id in batch["task_ids"]:
        world.end(task_id)
    answer: Any = alice.get(f"/v1/batch/{batch['id']}")
    assert answer.json["status"] == "completed"
    assert answer.json["completed_at"] is not None
    assert "Retry-After" not in answer.headers
    assert alice.get(f"/v1/batch/{batch['id']}/results").headers["x-batch-status"] == "completed"


@pytest.mark.parametrize(("accepted", "packed"), [("gzip", True), ("gzip;q=0", False), ("", False)])
def test_results_are_packed_where_that_is_accepted(
    world: World, alice: Client, accepted: str, packed: bool
) -> None:
    batch = alice.submit_batch(30)
    path = f"/v1/batch/{batch['id']}/results"
    world.end(*batch["task_ids"], finish=Finish.EMPTY)
    assert alice.get(f"/v1/batch/{batch['id']}").json["finish_counts"] == {"empty": 30}
    plain, answer = alice.get(path), alice.get(path, accept_encoding=accepted)
    assert (answer.headers.get("Content-Encoding") == "gzip") is packed
    data = gzip.decompress(answer.data) if packed else answer.data
    assert data == plain.data
    assert [orjson.loads(line)["finish"] for line in data.splitlines()] == ["empty"] * 30
    assert not packed or len(answer.data) < len(data) / 5


def test_results_of_many_pages_are_all_there(world: World, alice: Client) -> None:
    batch = alice.submit_batch(100)
    world.end(*batch["task_ids"])
    assert [line["index"] for line in results_of(alice, batch["id"])] == list(range(100))


def test_cancelling_ends_what_waits_and_lets_calls_finish(world: World, alice: Client) -> None:
    batch = alice.submit_batch(3)
    running = world.claim(batch["task_ids"][0])
    for _ in range(2):
        answer: Any = alice.post(f"/v1/batch/{batch['id']}/cancel")
        assert (answer.status_code, answer.json["status"]) == (200, "cancelling")
    assert answer.json["request_counts"] == {"total": 3, "completed": 0, "failed": 0}
    assert sorted(world.publisher.forgotten) == sorted(batch["task_ids"][1:])
    assert batch["id"] in world.publisher.announced
    world.record(running)
    ended: Any = alice.get(f"/v1/batch/{batch['id']}").json
    assert (ended["status"], ended["request_counts"]["completed"]) == ("cancelled", 1)
    assert alice.post(f"/v1/batch/{batch['id']}/cancel").status_code == 200


def test_a_finished_batch_cannot_be_cancelled(world: World, alice: Client) -> None:
    batch = alice.submit_batch(1)
    world.end(batch["task_ids"][0])
    answer: Any = alice.post(f"/v1/batch/{batch['id']}/cancel")
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "batch_ended")


@pytest.mark.parametrize("batch_id", ["batch_unknown0", "batch_", "x", "task_1", "batch_%00"])
@pytest.mark.parametrize("rest", ["", "/results", "/cancel"])
def test_unknown_and_malformed_ids_are_404(alice: Client, batch_id: str, rest: str) -> None:
    answer: Any = alice.call("POST" if rest == "/cancel" else "GET", f"/v1/batch/{batch_id}{rest}")
    assert (answer.status_code, answer.json["error"]["param"]) == (404, "batch_id")


def test_a_stranger_sees_nothing_of_it(world: World, alice: Client, stranger: Client) -> None:
    batch = alice.submit_batch(2)
    for path in ("", "/results"):
        assert stranger.get(f"/v1/batch/{batch['id']}{path}").status_code == 404
    assert stranger.post(f"/v1/batch/{batch['id']}/cancel").status_code == 404
    assert alice.get(f"/v1/batch/{batch['id']}").json["status"] == "in_progress"  # type: ignore[index]


def test_an_administrator_is_a_client_among_others(world: World, alice: Client) -> None:
    admin = world.anonymous(ADMIN_KEY)
    assert admin.get(f"/v1/batch/{alice.submit_batch(1)['id']}").status_code == 404
    assert admin.submit()


def test_more_large_json_bodies_than_may_be_held_at_once_take_turns(world: World, alice: Client) -> None:
    body = orjson.dumps({"requests": [{"prompt": "x" * (5 << 20)}]})
    answers: list[int] = []

    def post() -> None:
        client = Client(alice.id, alice.key, world.app.test_client())
        answers.append(client.post("/v1/batch", body).status_code)

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 6
