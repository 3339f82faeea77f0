"""Calls that wait long, come again, or whose client is gone: one task, one upstream call, one bill."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import openai
import orjson
import pytest
import urllib3

from tests.openai_client.world import FAST, ONE, World, ask
from tests.stack import wait_until


def post(world: World, words: str, *, timeout: float = 30, model: str = ONE, **headers: str) -> Any:
    """A call by hand; headers with underscores for hyphens."""
    sent = {"authorization": f"Bearer {world.stack.admin_key}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = orjson.dumps({"model": model, "messages": ask(words)})
    url = f"{world.stack.url}/v1/chat/completions"
    return urllib3.request("POST", url, body=body, headers=sent, timeout=timeout, retries=False)


def tasks_like(world: World, model: str, *, status: str = "") -> list[dict[str, Any]]:
    query = f"?limit=100{f'&status={status}' if status else ''}"
    return [
        task for task in world.native.call("GET", f"/v1/tasks{query}").body["data"] if task["model"] == model
    ]


def hang_up_after(world: World, words: str, seconds: float, **headers: str) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        post(world, words, timeout=seconds, **headers)


def occupied(world: World) -> None:
    """The one place of the model is taken for some seconds."""
    world.native.submit(f"[3 seconds] {threading.get_ident()}", model=ONE)
    wait_until(lambda: tasks_like(world, ONE, status="running"), what="it runs")


def test_a_call_that_waits_longer_than_its_client_listens_is_answered_408_and_taken_up_again(
    world: World,
) -> None:
    before = len(tasks_like(world, ONE))
    occupied(world)
    client = world.client(max_retries=5, timeout=httpx2.Timeout(30, read=2.0))
    got = client.chat.completions.create(model=ONE, messages=ask("patience"))
    assert got.choices[0].message.content == "This is a simulated answer. You said: patience"
    assert len(tasks_like(world, ONE)) == before + 2, "the repeats made no task of their own"


def test_equal_calls_at_once_are_tasks_of_their_own(world: World) -> None:
    client, seen = world.client(max_retries=2), set[str]()

    def call() -> None:
        raw = client.chat.completions.with_raw_response.create(model=FAST, messages=ask("equal"))
        seen.add(raw.headers["x-penstock-task"])

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 10


def test_a_repeat_after_a_broken_connection_takes_up_the_same_task(world: World) -> None:
    occupied(world)
    before = {task["id"] for task in tasks_like(world, ONE)}
    hang_up_after(world, "broken", 0.5, x_stainless_retry_count="0")
    again = post(world, "broken", x_stainless_retry_count="1")
    assert again.status == 200, again.data
    assert {task["id"] for task in tasks_like(world, ONE)} - before == {again.headers["x-penstock-task"]}


def test_a_waiting_task_whose_client_hung_up_is_cancelled(world: World) -> None:
    occupied(world)
    before = {task["id"] for task in tasks_like(world, ONE)}
    hang_up_after(world, "gone", 0.5)
    (mine,) = {task["id"] for task in tasks_like(world, ONE)} - before
    assert world.task_ended(mine)["status"] == "cancelled"


def test_a_running_call_whose_client_hung_up_is_let_finish(world: World) -> None:
    before = {task["id"] for task in tasks_like(world, FAST)}
    hang_up_after(world, "[3 seconds] alone", 1.0, model=FAST)
    (mine,) = {task["id"] for task in tasks_like(world, FAST)} - before
    assert world.task_ended(mine)["status"] == "succeeded"


def test_prefer_respond_async_answers_202_with_a_task(world: World) -> None:
    at_once = post(world, "later", model=FAST, prefer="respond-async")
    assert (at_once.status, at_once.headers["preference-applied"]) == (202, "respond-async")
    task = orjson.loads(at_once.data)
    assert at_once.headers["location"] == f"/v1/tasks/{task['id']}"
    assert world.task_ended(task["id"])["status"] == "succeeded"
    in_time = post(world, "in time", model=FAST, prefer="respond-async, wait=20")
    assert in_time.status == 200
    late = post(world, "[3 seconds] late", model=FAST, prefer="respond-async, wait=1")
    assert (late.status, late.headers["preference-applied"]) == (202, "respond-async, wait=1")


def test_an_idempotency_key_attaches_to_the_call_that_still_runs(world: World) -> None:
    first = post(world, "[slowly] keyed", model=FAST, prefer="respond-async", idempotency_key="k-1")
    second = post(world, "[slowly] keyed", model=FAST, idempotency_key="k-1")
    assert (first.status, second.status) == (202, 200)
    assert second.headers["x-penstock-task"] == first.headers["x-penstock-task"]
    assert post(world, "other words", model=FAST, idempotency_key="k-1").status == 422


def test_a_stream_says_that_it_lives_while_it_is_queued(world: World) -> None:
    occupied(world)
    body = orjson.dumps({"model": ONE, "messages": ask("queued"), "stream": True})
    answer = urllib3.request(
        "POST",
        f"{world.stack.url}/v1/chat/completions",
        body=body,
        headers={
            "authorization": f"Bearer {world.stack.admin_key}",
            "x-stainless-read-timeout": "1.5",
        },
        timeout=30,
    )
    events = answer.data.decode().split("\n\n")
    assert events[0].startswith(":")
    assert events[-2] == "data: [DONE]"


def test_a_repeat_whose_earlier_try_made_no_task_is_a_new_task(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model=FAST, messages=ask("never seen before"), extra_headers={"x-stainless-retry-count": "1"}
    )
    assert got.choices[0].message.content == "This is a simulated answer. You said: never seen before"
