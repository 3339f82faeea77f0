"""GET /v1/tasks: pages and filters."""

from typing import Any

import pytest

from tests.api.world import Client, World


def ids_of(answer: Any) -> list[str]:
    return [task["id"] for task in answer.json["data"]]


def all_pages(client: Client, query: str, limit: int) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page: Any = client.get(f"/v1/tasks?limit={limit}{query}{after}").json
        ids = [task["id"] for task in page["data"]]
        found += ids
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 100])
def test_pages_hold_every_task_once_newest_first(alice: Client, limit: int) -> None:
    submitted = [alice.submit() for _ in range(5)]
    assert all_pages(alice, "", limit) == submitted[::-1]


def test_a_task_submitted_while_somebody_pages_moves_nothing(alice: Client) -> None:
    old = [alice.submit() for _ in range(4)]
    first: Any = alice.get("/v1/tasks?limit=2").json
    alice.submit()
    rest = alice.get(f"/v1/tasks?limit=2&after={first['last_id']}")
    assert [task["id"] for task in first["data"]] + ids_of(rest) == old[::-1]


def test_lists_can_be_narrowed_by_status_and_batch(world: World, alice: Client) -> None:
    single = alice.submit()
    batch = alice.submit_batch(3)
    world.end(single)
    assert ids_of(alice.get("/v1/tasks?status=succeeded")) == [single]
    assert ids_of(alice.get("/v1/tasks?status=failed")) == []
    assert ids_of(alice.get(f"/v1/tasks?batch_id={batch['id']}")) == batch["task_ids"][::-1]
    assert all_pages(alice, f"&batch_id={batch['id']}&status=queued", 1) == batch["task_ids"][::-1]


def test_lists_leave_results_out_but_nothing_else(world: World, alice: Client) -> None:
    task_id = alice.submit()
    world.end(task_id)
    (listed,) = alice.get("/v1/tasks").json["data"]  # type: ignore[index]
    assert {**alice.task(task_id), "result": None} == listed


BAD: list[tuple[str, str, str]] = [
    ("after=task_unknown0", "after", "invalid_cursor"),
    ("after=x%00", "after", "invalid_cursor"),
    ("after=", "after", "invalid_cursor"),
    ("limit=0", "limit", "invalid_value"),
    ("limit=101", "limit", "invalid_value"),
    ("limit=many", "limit", "invalid_value"),
    ("status=done", "status", "invalid_value"),
    ("batch_id=x", "batch_id", "invalid_value"),
    ("batchid=x", "batchid", "unknown_field"),
    ("limit=1&limit=2", "limit", "invalid_value"),
]


@pytest.mark.parametrize(("query", "param", "code"), BAD)
def test_bad_parameters_are_refused_by_name(alice: Client, query: str, param: str, code: str) -> None:
    answer = alice.get(f"/v1/tasks?{query}")
    assert answer.status_code == 400
    error: Any = answer.json
    assert (error["error"]["param"], error["error"]["code"]) == (param, code)


def test_a_strangers_batch_is_an_empty_list(alice: Client, stranger: Client) -> None:
    batch = alice.submit_batch(2)
    assert ids_of(stranger.get(f"/v1/tasks?batch_id={batch['id']}")) == []
