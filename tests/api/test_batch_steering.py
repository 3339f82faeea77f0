"""Batches that are paused, resumed, run again, followed, or only asked about; on both databases."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.platform.domain.event_stream import EventReader
from app.tasks.domain.task import Status
from app.tasks.store.feeding import next_to_feed, promote_due, queues_to_feed
from app.tasks.store.tasks import get_task
from tests.api.world import Client, World


def runnable(world: World, batch: Any) -> set[str]:
    """The tasks of a batch that the feeder would take now."""

    def read(conn: Any) -> set[str]:
        found = (
            message.task_id for queue in queues_to_feed(conn) for message in next_to_feed(conn, queue, 1000)
        )
        return set(found) & set(batch["task_ids"])

    return world.database.read(read)


def seen_paused(world: World, batch: Any) -> set[bool]:
    """Whether its tasks, as they are read, say that their batch is paused."""
    rows = [
        world.database.read(lambda conn, name=name: get_task(conn, None, name)) for name in batch["task_ids"]
    ]
    return {row.batch_paused_at is not None for row in rows if row is not None}


def swept(world: World) -> None:
    while world.database.write(lambda conn: promote_due(conn, world.parts.clock.now(), 1000)):
        pass


def do(alice: Client, batch: Any, word: str) -> Any:
    return alice.post(f"/v1/batch/{batch['id']}/{word}")


def results(alice: Client, batch: Any) -> list[Any]:
    return [orjson.loads(line) for line in alice.get(f"/v1/batch/{batch['id']}/results").data.splitlines()]


def test_a_paused_batch_starts_nothing_and_goes_on_where_it_stood(world: World, alice: Client) -> None:
    batch = alice.submit_batch(4)
    world.end(batch["task_ids"][0])
    paused = do(alice, batch, "pause")
    assert (paused.status_code, paused.json["status"]) == (200, "in_progress")
    assert paused.json["paused_at"]
    assert runnable(world, batch) == set()
    assert do(alice, batch, "pause").status_code == 200
    assert seen_paused(world, batch) == {True}
    resumed = do(alice, batch, "resume")
    assert resumed.json["paused_at"] is None
    assert seen_paused(world, batch) == {False}
    assert runnable(world, batch) == set(batch["task_ids"][1:])
    assert do(alice, batch, "resume").status_code == 200


def test_a_retry_of_a_call_that_ran_when_its_batch_was_paused_is_held_back(
    world: World, alice: Client
) -> None:
    batch = alice.submit_batch(1)
    running = world.claim(batch["task_ids"][0])
    do(alice, batch, "pause")
    world.record(running, status=Status.QUEUED, result=None, usage=None, available_at=0.0)
    assert runnable(world, batch) == set()
    do(alice, batch, "resume")
    swept(world)
    assert runnable(world, batch) == set(batch["task_ids"])


def test_a_batch_size_is_kept_over_a_pause(world: World, alice: Client) -> None:
    batch = alice.submit_batch(5, batch_size=2)
    running = world.claim(batch["task_ids"][0])
    do(alice, batch, "pause")
    world.record(running)
    assert runnable(world, batch) == set()
    do(alice, batch, "resume")
    assert runnable(world, batch) == set(batch["task_ids"][1:3])


def test_a_paused_batch_can_be_cancelled(world: World, alice: Client) -> None:
    batch = alice.submit_batch(3)
    do(alice, batch, "pause")
    assert do(alice, batch, "cancel").json["status"] == "cancelled"
    assert do(alice, batch, "resume").status_code == 409


def test_retry_runs_the_failed_lines_alone_and_keeps_the_old_tasks(world: World, alice: Client) -> None:
    requests = [{"prompt": f"p{n}", "custom_id": f"c{n}"} for n in range(3)]
    batch: Any = alice.post("/v1/batch", {"requests": requests}).json
    good, bad, worse = batch["task_ids"]
    world.end(good)
    world.fail(bad)
    world.fail(worse)
    again = do(alice, batch, "retry")
    assert (again.status_code, again.json["status"]) == (200, "in_progress")
    assert again.json["request_counts"] == {"total": 3, "completed": 1, "failed": 0}
    assert again.json["completed_at"] is None
    assert alice.task(bad)["status"] == "failed", "an end is an end"
    assert [line["custom_id"] for line in results(alice, batch)] == ["c0"]
    listed: Any = alice.get(f"/v1/tasks?batch_id={batch['id']}&status=queued").json
    new = [task["id"] for task in listed["data"]]
    assert {task["custom_id"] for task in listed["data"]} == {"c1", "c2"}
    world.end(*new)
    ended: Any = alice.get(f"/v1/batch/{batch['id']}").json
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", 3)
    assert [line["custom_id"] for line in results(alice, batch)] == ["c0", "c1", "c2"]


def test_there_must_be_something_to_retry(world: World, alice: Client, stranger: Client) -> None:
    batch = alice.submit_batch(1)
    world.end(*batch["task_ids"])
    refused = do(alice, batch, "retry")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "nothing_to_retry")
    assert refused.headers["x-should-retry"] == "false"
    cancelled = alice.submit_batch(1)
    do(alice, cancelled, "cancel")
    assert do(alice, cancelled, "retry").status_code == 409
    for word in ("pause", "resume", "retry"):
        assert do(stranger, batch, word).status_code == 404


@pytest.mark.parametrize("lines", [False, True])
def test_a_dry_run_tells_what_it_would_come_to_and_stores_nothing(
    world: World, alice: Client, lines: bool
) -> None:
    requests = [{"prompt": "hello", "parameters": {"max_tokens": 100}}, {"prompt": "you"}]
    if lines:
        body: Any = b"\n".join(map(orjson.dumps, requests))
        told: Any = alice.post("/v1/batch?dry_run=true", body, content_type="application/x-ndjson")
    else:
        told = alice.post("/v1/batch?dry_run=true", {"requests": requests})
    assert (told.status_code, told.json["object"], told.json["requests"]) == (200, "batch.estimate", 2)
    assert told.json["tokens"] > 612
    assert alice.get("/v1/tasks").json["data"] == []  # type: ignore[index]
    twice = [{"prompt": "a", "custom_id": "x"}] * 2
    refused: Any = alice.post("/v1/batch?dry_run=true", {"requests": twice})
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "duplicate_custom_id")


def test_an_estimate_goes_by_ones_own_latest_answers(world: World, alice: Client, stranger: Client) -> None:
    wish = {"requests": [{"prompt": "hello"}, {"prompt": "hello", "parameters": {"max_tokens": 1}}]}
    before: Any = alice.post("/v1/batch?dry_run=true", wish)
    assert (before.json["likely_tokens"], before.json["likely_cost"]) == (None, None)
    world.end(*alice.submit_batch(3)["task_ids"])  # 5 tokens of prompt, 2 of answer, 12.4 micros each
    after: Any = alice.post("/v1/batch?dry_run=true", wish)
    prompts = after.json["tokens"] - 512 - 1
    assert after.json["likely_tokens"] == prompts + 2 + 1
    assert after.json["likely_cost"]["currency"] == "USD"
    assert after.json["likely_cost"]["micros"] == pytest.approx(12.4 / 7 * (prompts + 3), abs=1)
    theirs: Any = stranger.post("/v1/batch?dry_run=true", wish)
    assert theirs.json["likely_tokens"] is None


def test_events_tell_each_state_until_the_end(world: World, alice: Client, stranger: Client) -> None:
    batch = alice.submit_batch(1)
    world.end(*batch["task_ids"])
    for path, name in ((f"/v1/batch/{batch['id']}", "batch"), (f"/v1/tasks/{batch['task_ids'][0]}", "task")):
        answer = alice.get(f"{path}/events")
        assert answer.mimetype == "text/event-stream"
        assert answer.data.startswith(b"retry: 3000\n")
        reader = EventReader()
        last, end = [*reader.feed(answer.data), *reader.close()]
        assert (last.name, end.name, last.data) == (name, "end", end.data)
        assert orjson.loads(last.data)["status"] in ("completed", "succeeded")
        assert answer.data.endswith(b"event: end\nid: end\ndata: " + end.data + b"\n\n")
        assert alice.get(f"{path}/events", last_event_id="end").status_code == 204  # EventSource stops then
        assert stranger.get(f"{path}/events").status_code == 404
