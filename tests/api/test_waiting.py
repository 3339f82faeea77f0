"""?wait=: long polls, and how they end."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest

from app.api.application import PenstockApi, create_app
from app.platform.database import Database
from app.submission import answer_chat
from app.tasks.wait import Waiters
from tests.api.world import MODEL, Client, Parts, WatchedPublisher, World, make_settings


class Poll:
    """A long poll in a thread of its own."""

    def __init__(self, app: PenstockApi, client: Client, task_id: str, wait: float) -> None:
        self.answer: Any = None
        self._client = Client(client.id, client.key, app.test_client())
        self._path = f"/v1/tasks/{task_id}?wait={wait}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.answer = self._client.get(self._path).json

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(120)
        assert not self._thread.is_alive()
        return self.answer


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def waiters(app: PenstockApi) -> int:
    return app.use_cases.waiters.count


@pytest.mark.parametrize("silent", [False, True], ids=["by the news", "by the database alone"])
def test_a_poll_is_answered_when_the_task_ends(world: World, alice: Client, silent: bool) -> None:
    world.publisher.silent = silent
    task_id = alice.submit()
    polls = [Poll(world.app, alice, task_id, 50) for _ in range(3)]
    until(lambda: waiters(world.app) == 3)
    world.end(task_id)
    assert {poll.result()["status"] for poll in polls} == {"succeeded"}
    assert waiters(world.app) == 0


def test_a_poll_whose_time_is_up_shows_the_task_as_it_stands(alice: Client) -> None:
    task_id = alice.submit()
    assert alice.get(f"/v1/tasks/{task_id}?wait=0.05").json["status"] == "queued"  # type: ignore[index]


def test_an_ended_task_is_not_waited_for(world: World, alice: Client) -> None:
    task_id = alice.submit()
    world.end(task_id)
    answer = alice.get(f"/v1/tasks/{task_id}?wait=60")
    assert answer.json["status"] == "succeeded"  # type: ignore[index]
    assert "Retry-After" not in answer.headers


def test_news_of_a_change_that_is_no_end_does_not_end_the_poll(world: World, alice: Client) -> None:
    task_id = alice.submit()
    poll = Poll(world.app, alice, task_id, 50)
    until(lambda: waiters(world.app) == 1)
    claimed = world.claim(task_id)
    world.publisher.announce([task_id])
    until(lambda: not world.app.use_cases.waiters.waited_ids(0) or poll.waits)
    assert poll.waits
    world.record(claimed)
    assert poll.result()["status"] == "succeeded"


def test_a_cancel_ends_the_poll(world: World, alice: Client) -> None:
    task_id = alice.submit()
    poll = Poll(world.app, alice, task_id, 50)
    until(lambda: waiters(world.app) == 1)
    assert alice.post(f"/v1/tasks/{task_id}/cancel").status_code == 200
    assert poll.result()["status"] == "cancelled"


@contextmanager
def an_app(world: World, **changes: Any) -> Any:
    parts = Parts(world.database, settings=make_settings(**changes), publisher=WatchedPublisher())
    app = create_app(parts)
    yield app
    app.close()


def test_beyond_the_limit_polls_are_answered_at_once(world: World, alice: Client) -> None:
    task_id = alice.submit()
    with an_app(world, api={"waiters": 2, "threads": 10}) as app:
        polls = [Poll(app, alice, task_id, 50) for _ in range(2)]
        until(lambda: waiters(app) == 2)
        assert Poll(app, alice, task_id, 50).result()["status"] == "queued"
        app.drain()
        assert {poll.result()["status"] for poll in polls} == {"queued"}


def test_beyond_the_limit_a_chat_call_is_sent_elsewhere_and_nothing_is_stored(
    world: World, alice: Client
) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    with an_app(world, api={"waiters": 1, "threads": 10}) as app:
        poll = Poll(app, alice, alice.submit(), 50)
        until(lambda: waiters(app) == 1)
        before = alice.get("/v1/tasks").json["data"]
        for more in ({}, {"stream": True}):
            full = Client(alice.id, alice.key, app.test_client()).post("/v1/chat/completions", body | more)
            error = full.json["error"]
            assert (full.status_code, error["code"]) == (503, "too_many_waiting")
            assert error["type"] == "server_error"
            assert 1 <= int(full.headers["Retry-After"]) <= 60
            assert "x-should-retry" not in full.headers
        assert alice.get("/v1/tasks").json["data"] == before
        app.drain()
        poll.result()


def test_after_the_end_has_begun_nobody_waits(world: World, alice: Client) -> None:
    task_id = alice.submit()
    with an_app(world) as app:
        app.drain()
        assert Poll(app, alice, task_id, 50).result()["status"] == "queued"


@pytest.mark.parametrize("wait", ["soon", "-1", "", "nan", "1e3"])
def test_a_bad_wait_is_refused_by_name(alice: Client, wait: str) -> None:
    answer: Any = alice.get(f"/v1/tasks/{alice.submit()}?wait={wait}")
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "wait")


def test_waiting_holds_no_database_connection(world: World, alice: Client) -> None:
    narrow = Database(world.parts.url, pool_size=1)
    app = create_app(Parts(narrow))
    try:
        task_ids = [alice.submit() for _ in range(8)]
        polls = [Poll(app, alice, task_id, 50) for task_id in task_ids]
        until(lambda: waiters(app) == 8)
        assert Client("", alice.key, app.test_client()).submit()
        world.end(*task_ids)
        assert {poll.result()["status"] for poll in polls} == {"succeeded"}
    finally:
        app.close()
        narrow.close()


def test_the_registry_forgets_who_has_left() -> None:
    registry = Waiters(2)
    with registry.enter("a") as one, registry.enter("a") as two, registry.enter("b") as three:
        assert one is not None
        assert two is not None
        assert three is None
        registry.notify("a")
        assert one.is_set()
        assert two.is_set()
        assert registry.waited_ids(0) == ["a"]
    assert (registry.waited_ids(0), registry.count) == ([], 0)


def test_a_chat_call_that_no_key_can_serve_is_told_so_while_a_task_waits(
    world: World, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_chat, "KEYLESS_SECONDS", 0.0)
    monkeypatch.setattr(world.parts.explain, "keyless", frozenset({MODEL}))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    for more in ({}, {"stream": True}):
        refused = alice.post("/v1/chat/completions", {**body, **more})
        assert (refused.status_code, refused.json["error"]["code"]) == (503, "no_key_available")
        assert refused.headers["x-should-retry"] == "false"
    later = alice.post("/v1/chat/completions", body, prefer="respond-async, wait=1")
    assert later.status_code == 202
    assert alice.task(alice.submit())["status"] == "queued"
