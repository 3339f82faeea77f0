"""Calls that wait long, come again, or whose client is gone: one task, one upstream call, one bill."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import orjson
import urllib3

from tests.openai_client.world import FAST, ONE, World, ask
from tests.stack import PATIENCE, wait_until

PATH = "/v1/chat/completions"


def request(world: World, words: str, model: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    """A call's body and headers; those with underscores for hyphens."""
    sent = {"authorization": f"Bearer {world.stack.admin_key}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return {"body": orjson.dumps({"model": model, "messages": ask(words), **more}), "headers": sent}


def post(world: World, words: str, *, model: str = ONE, **headers: str) -> Any:
    """A call by hand."""
    made = request(world, words, model, headers)
    return urllib3.request("POST", world.stack.url + PATH, timeout=PATIENCE, retries=False, **made)


def tasks_like(world: World, model: str, *, status: str = "") -> set[str]:
    query = f"?limit=100{f'&status={status}' if status else ''}"
    page = world.native.call("GET", f"/v1/tasks{query}").body["data"]
    return {str(task["id"]) for task in page if task["model"] == model}


def hang_up_once(
    world: World, words: str, seen: Callable[[], Any], *, model: str = ONE, **headers: str
) -> None:
    """Call, and hang up without having heard anything as soon as that is seen."""
    connection = http.client.HTTPConnection("127.0.0.1", world.stack.port, timeout=PATIENCE)
    connection.request("POST", PATH, **request(world, words, model, headers))
    wait_until(seen, what=f"hanging up on {words}")
    connection.close()


def waiting(world: World) -> float:
    """How many wait at the API for a task."""
    return world.figure("penstock_waiters")


def test_a_call_that_waits_longer_than_its_client_listens_is_answered_408_and_taken_up_again(
    world: World,
) -> None:
    sent_on = f'penstock_http_requests_total{{method="POST",route="{PATH}",status="408"}}'
    tasks, answered = tasks_like(world, ONE), world.figure(sent_on)
    client = world.client(max_retries=20, timeout=httpx2.Timeout(PATIENCE, read=2.0))
    with ThreadPoolExecutor() as pool:
        with world.held():
            asked = pool.submit(client.chat.completions.create, model=ONE, messages=ask("patience"))
            wait_until(lambda: world.figure(sent_on) > answered, what="408")
        got = asked.result(PATIENCE)
    assert got.choices[0].message.content == "This is a simulated answer. You said: patience"
    assert len(tasks_like(world, ONE) - tasks) == 1, "the repeats made no task of their own"


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
    before = tasks_like(world, ONE)
    with ThreadPoolExecutor() as pool:
        with world.held():
            hang_up_once(
                world, "broken", lambda: tasks_like(world, ONE) - before, x_stainless_retry_count="0"
            )
            wait_until(lambda: waiting(world) == 0, what="the hanging up is noticed")
            repeat = pool.submit(post, world, "broken", x_stainless_retry_count="1")
            wait_until(lambda: waiting(world) == 1, what="the repeat waits")
        again = repeat.result(PATIENCE)
    assert again.status == 200, again.data
    assert tasks_like(world, ONE) - before == {again.headers["x-penstock-task"]}


def test_a_plain_client_that_comes_again_takes_up_the_same_task(world: World) -> None:
    before = tasks_like(world, ONE)
    with ThreadPoolExecutor() as pool:
        with world.held():
            hang_up_once(world, "plain", lambda: tasks_like(world, ONE) - before)
            wait_until(lambda: waiting(world) == 0, what="the hanging up is noticed")
            repeat = pool.submit(post, world, "plain")
            wait_until(lambda: waiting(world) == 1, what="the repeat waits")
        again = repeat.result(PATIENCE)
    assert again.status == 200, again.data
    assert tasks_like(world, ONE) - before == {again.headers["x-penstock-task"]}


def test_equal_calls_that_ask_for_it_share_one_task_while_it_waits(world: World) -> None:
    before, shared = tasks_like(world, ONE), {"x_penstock_join": "true"}
    with ThreadPoolExecutor() as pool:
        with world.held():
            asked = [pool.submit(post, world, "shared", **shared) for _ in range(5)]
            wait_until(lambda: waiting(world) == 5, what="all wait")
            hang_up_once(world, "shared", lambda: waiting(world) == 6, **shared)
            wait_until(lambda: waiting(world) == 5, what="the hanging up is noticed")
        answers = [each.result(PATIENCE) for each in asked]
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["x-penstock-task"] for answer in answers} == tasks_like(world, ONE) - before
    attempts = world.native.call("GET", f"/v1/tasks/{answers[0].headers['x-penstock-task']}/attempts").body[
        "data"
    ]
    assert len(attempts) == 1
    later = post(world, "shared", **shared)
    assert later.headers["x-penstock-task"] != answers[0].headers["x-penstock-task"], "the first has ended"


def test_a_waiting_task_whose_client_hung_up_is_cancelled(world: World) -> None:
    before = tasks_like(world, ONE)
    with world.held():
        hang_up_once(world, "gone", lambda: tasks_like(world, ONE) - before)
        (mine,) = tasks_like(world, ONE) - before
        assert world.task_ended(mine)["status"] == "cancelled"


def test_a_running_call_whose_client_hung_up_is_let_finish(world: World) -> None:
    before = tasks_like(world, FAST)

    def runs() -> set[str]:
        return tasks_like(world, FAST, status="running") - before

    hang_up_once(world, "[3 seconds] alone", runs, model=FAST)
    (mine,) = tasks_like(world, FAST) - before
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
    made = request(world, "queued", ONE, {"x_stainless_read_timeout": "1.5"}, stream=True)
    with world.held():
        answer = urllib3.request(
            "POST", world.stack.url + PATH, timeout=PATIENCE, preload_content=False, **made
        )
        pieces = answer.stream(1)
        assert next(pieces).startswith(b":")
    events = b"".join(pieces).decode().split("\n\n")
    assert events[-2] == "data: [DONE]"


def test_a_repeat_whose_earlier_try_made_no_task_is_a_new_task(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model=FAST, messages=ask("never seen before"), extra_headers={"x-stainless-retry-count": "1"}
    )
    assert got.choices[0].message.content == "This is a simulated answer. You said: never seen before"
