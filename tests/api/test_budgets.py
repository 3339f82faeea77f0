"""Budgets: reserved at submission, settled by what was used, and room in them asked for by all that runs again."""

from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import select

from app.submission.domain.request import BatchRequest, TaskRequest
from app.tasks.store.tables import task
from tests.api.gatekeeping import failed, keep_budgets, later, made, spent
from tests.api.world import Client, World
from tests.stack import wait_until

_names = count(1)
pytestmark = pytest.mark.usefixtures("moved_on")


def test_a_budget_is_reserved_at_submission_and_settled_by_what_was_used(
    world: World, admin: Client, stranger: Client
) -> None:
    alice = made(world, admin, limits={"tokens_per_day": 5000})
    name = alice.submit("hello", parameters={"max_tokens": 4000})
    ((reserved, _), _) = spent(world, alice)
    assert 4000 < reserved < 5000
    refused = alice.post(
        "/v1/tasks", {"prompt": "x", "parameters": {"max_tokens": 4000}}, idempotency_key="k"
    )
    assert (refused.status_code, refused.json["error"]["code"]) == (402, "over_budget")
    world.end(name)
    keep_budgets(world)
    keep_budgets(world)
    assert spent(world, alice) == [(7, 12_400_000)] * 2
    body = {"prompt": "x", "parameters": {"max_tokens": 4000}}
    assert alice.post("/v1/tasks", body, idempotency_key="k").status_code == 202
    assert spent(world, stranger) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_completion_tokens": 1, "max_tokens": 3000},
        {"max_completion_tokens": 3000, "max_tokens": 1},
        {"max_tokens": 500, "n": 6},
        {"max_tokens": 1, "tools": [{"type": "function", "function": {"description": "word " * 2000}}]},
        {"max_tokens": 1, "something_new": "word " * 2000},
        {},
        {"max_tokens": -1},
    ],
)
def test_no_request_is_cheaper_than_it_looks(
    world: World, admin: Client, parameters: dict[str, object]
) -> None:
    """Nor is anything free for a client that was added a moment ago."""
    world.client().submit()  # all limits have been read
    name = f"dear-{next(_names)}-{world.database.dialect}"
    limits = {"tokens_per_day": 2000}
    key = admin.post("/v1/admin/clients", {"id": name, "limits": limits}).json["api_key"]
    alice = Client(name, key, world.app.test_client())
    refused = alice.post("/v1/tasks", {"prompt": "x", "parameters": parameters})
    assert (refused.status_code, refused.json["error"]["code"]) == (402, "over_budget")
    assert (
        alice.post("/v1/batch", {"requests": [{"prompt": "x", "parameters": parameters}]}).status_code == 402
    )
    assert alice.post("/v1/tasks", {"prompt": "x", "parameters": {"max_tokens": 1500}}).status_code == 202


def test_a_batch_over_budget_is_refused_in_whole_and_leaves_nothing(world: World, admin: Client) -> None:
    alice = made(world, admin, limits={"tokens_per_month": 5000})
    lines = [{"prompt": "x", "parameters": {"max_tokens": 2000}}] * 3
    assert alice.post("/v1/batch", {"requests": lines}).status_code == 402
    assert alice.get("/v1/tasks").json["data"] == []
    assert spent(world, alice) in ([], [(0, 0)])
    assert alice.post("/v1/batch", {"requests": lines[:2]}).status_code == 202


def test_cancelled_tasks_give_their_reservation_back(world: World, admin: Client) -> None:
    alice = made(world, admin, limits={"tokens_per_day": 5000})
    name = alice.submit(parameters={"max_tokens": 4000})
    alice.post(f"/v1/tasks/{name}/cancel")
    keep_budgets(world)
    assert spent(world, alice) == [(0, 0)] * 2


@pytest.mark.parametrize("batch_size", [None, 1])
def test_a_client_that_waits_gets_what_fits_when_it_fits(
    world: World, admin: Client, batch_size: int | None
) -> None:
    alice = made(world, admin, limits={"tokens_per_day": 5000, "over_budget": "wait"})
    lines = [{"prompt": "x", "parameters": {"max_tokens": 2000}}] * 3
    ids = alice.post("/v1/batch", {"requests": lines, "batch_size": batch_size}).json["task_ids"]

    def holds() -> list[int]:
        found = select(task.c.hold).where(task.c.id.in_(ids)).order_by(task.c.seq)
        return list(world.database.read(lambda c: c.execute(found).scalars()))

    assert holds() == [6, 6, 6]
    keep_budgets(world)
    assert holds() == ([0, 0, 6] if batch_size is None else [0, 2, 6])
    world.end(ids[0])
    keep_budgets(world)
    assert holds() == [0, 0, 0 if batch_size is None else 2]


def test_a_batch_that_waits_for_its_budget_does_not_begin_before_all_of_it_is_there(
    world: World, admin: Client
) -> None:
    alice = made(world, admin, limits={"tokens_per_day": 50_000_000, "over_budget": "wait"})
    stored, later_on = select(task.c.hold, task.c.status).where(task.c.client_id == alice.id), []

    def requests() -> Iterator[TaskRequest]:
        for number in range(1300):
            if number == 1200:
                wait_until(lambda: world.database.read(lambda c: c.execute(stored).all()), what="a chunk")
                keep_budgets(world)
                later_on.extend(world.database.read(lambda c: c.execute(stored).all()))
            yield TaskRequest([{"role": "user", "content": "x"}])

    world.app.use_cases.submit_batch.submit(alice.id, BatchRequest(), requests())
    assert {tuple(row) for row in later_on} == {(6, "queued")}, "nothing was let go in the middle"
    assert not any(map(sum, spent(world, alice))), "nothing was reserved in the middle"
    keep_budgets(world)
    assert 0 in {row.hold for row in world.database.read(lambda c: c.execute(stored).all())}


def test_a_task_that_is_run_again_needs_room_in_the_budget_as_any_other(world: World, admin: Client) -> None:
    alice = made(world, admin, limits={"tokens_per_day": 5000})
    first = failed(world, alice.submit("hello", parameters={"max_tokens": 3000}))
    keep_budgets(world)
    assert spent(world, alice) == [(0, 0)] * 2, "the failed one used nothing"
    alice.submit("other", parameters={"max_tokens": 4000})
    before = spent(world, alice)
    refused = alice.post(f"/v1/tasks/{first}/retry")
    assert (refused.status_code, refused.json["error"]["code"]) == (402, "over_budget")
    assert spent(world, alice) == before
    assert alice.task(first)["status"] == "failed"
    raised = {"limits": {"tokens_per_day": 50_000}}
    assert admin.call("PATCH", f"/v1/admin/clients/{alice.id}", raised).status_code == 200
    later(world)
    assert alice.post(f"/v1/tasks/{first}/retry").status_code in (200, 202)
    assert spent(world, alice)[0][0] > before[0][0] + 3000


def test_failed_lines_that_are_run_again_need_room_in_the_budget(world: World, admin: Client) -> None:
    alice = made(world, admin, limits={"tokens_per_day": 5000})
    lines = [{"prompt": "x", "parameters": {"max_tokens": 1500}}] * 3
    batch = alice.post("/v1/batch", {"requests": lines}).json
    world.end(*batch["task_ids"][:1])
    for name in batch["task_ids"][1:]:
        failed(world, name)
    keep_budgets(world)
    alice.submit("other", parameters={"max_tokens": 3000})
    before = spent(world, alice)
    refused = alice.post(f"/v1/batch/{batch['id']}/retry")
    assert (refused.status_code, refused.json["error"]["code"]) == (402, "over_budget")
    assert spent(world, alice) == before


def test_a_budget_of_money_needs_a_known_price(world: World, admin: Client) -> None:
    alice = made(world, admin, limits={"money_per_day": "1.00", "currency": "USD"})
    refused = alice.post("/v1/tasks", {"prompt": "x"})
    assert (refused.status_code, refused.json["error"]["code"]) == (402, "price_unknown")
