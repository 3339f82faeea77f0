"""Scopes, teams, limits, policies, budgets, the audit log, forgetting. A stranger is in every test."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson
import pytest
from sqlalchemy import select, text, update

from app.db.access_tables import audit, budget_use
from app.db.tables import task, task_content
from app.domain.request import BatchRequest, TaskRequest
from app.services.keep_access import KeepAudit, KeepBudgets
from app.services.keep_retention import KeepRetention
from app.services.ports import Rate
from app.services.tell_places import admission_of
from app.settings.access_models import StorageSettings
from tests.api.world import ADMIN_KEY, MODEL, Client, World
from tests.stack import wait_until

_numbers = count(1)
_days = count(400, 60)
SECRET_PROMPT = "the goose flies at midnight"


@pytest.fixture
def admin(world: World) -> Iterator[Client]:
    client = world.anonymous(ADMIN_KEY)
    yield client
    for policy in client.get("/v1/admin/policies").json["data"]:
        client.call("DELETE", f"/v1/admin/policies/{policy['id']}")
    later(world)


@pytest.fixture(autouse=True)
def _move_on(world: World) -> None:
    """The tests before have moved the clock back: begin where nothing that they read counts any more."""
    world.parts.clock.ahead = next(_days) * 86_400.0


def later(world: World) -> None:
    """Every process has read policies, limits and keys anew."""
    world.parts.clock.ahead += 6


def made(world: World, admin: Client, **fields: Any) -> Client:
    """A client added over HTTP."""
    name = f"gate-{next(_numbers)}-{world.database.dialect}"
    answer = admin.post("/v1/admin/clients", {"id": name, **fields})
    assert answer.status_code == 201, answer.data
    later(world)
    return Client(name, answer.json["api_key"], world.app.test_client())


def with_key(world: World, admin: Client, client: Client, **fields: Any) -> Client:
    answer = admin.post(f"/v1/admin/clients/{client.id}/keys", fields)
    assert answer.status_code == 201, answer.data
    return Client(client.id, answer.json["api_key"], world.app.test_client())


def test_a_key_reaches_no_further_than_its_scopes(world: World, admin: Client, alice: Client) -> None:
    reader = with_key(world, admin, alice, scopes=["tasks:read"])
    assert reader.get("/v1/tasks").status_code == 200
    refused = reader.post("/v1/tasks", {"prompt": "x"})
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "insufficient_scope")
    assert reader.get("/v1/batch/batch_1").status_code == 403


def test_a_rotated_key_and_its_successor_are_both_valid_for_the_overlap(
    world: World, admin: Client, alice: Client, stranger: Client
) -> None:
    path = f"/v1/admin/clients/{alice.id}/keys"
    old = admin.get(path).json["data"][0]["id"]
    assert stranger.post(f"{path}/{old}/rotate", {}).status_code == 403
    new = admin.post(f"{path}/{old}/rotate", {"overlap": "10m"}).json["api_key"]
    successor = Client(alice.id, new, world.app.test_client())
    later(world)
    assert alice.get("/v1/tasks").status_code == successor.get("/v1/tasks").status_code == 200
    world.parts.clock.ahead += 600
    assert (alice.get("/v1/tasks").status_code, successor.get("/v1/tasks").status_code) == (401, 200)
    assert new not in admin.get(path).get_data(as_text=True)


def test_a_revoked_key_ends_within_seconds(world: World, admin: Client, alice: Client) -> None:
    path = f"/v1/admin/clients/{alice.id}/keys"
    key = admin.get(path).json["data"][0]["id"]
    assert admin.post(f"{path}/{key}/revoke").status_code == 200
    later(world)
    assert alice.get("/v1/tasks").status_code == 401


def test_an_administrator_of_a_team_manages_that_team_and_nobody_else(
    world: World, admin: Client, stranger: Client
) -> None:
    team = f"team_{next(_numbers)}"
    chief = made(world, admin, administers=team, team=team)
    member = made(world, chief)
    listed = {row["id"]: row["team"] for row in chief.get("/v1/admin/clients").json["data"]}
    assert listed == {chief.id: team, member.id: team}
    assert chief.get(f"/v1/admin/clients/{stranger.id}").status_code == 404
    assert chief.post(f"/v1/admin/clients/{stranger.id}/keys", {}).status_code == 404
    assert chief.post(f"/v1/admin/clients/{member.id}/keys", {"scopes": ["tasks:read"]}).status_code == 201
    for wish in ({"weight": 100}, {"limits": {}}, {"administers": team}, {"team": "other"}):
        assert chief.call("PATCH", f"/v1/admin/clients/{member.id}", wish).status_code == 403
    for path in ("/v1/admin/policies", "/v1/admin/audit", "/v1/admin/callbacks"):
        assert (chief.get(path).status_code, stranger.get(path).status_code) == (403, 403)
    assert stranger.get("/v1/admin/clients").status_code == 403


def test_nobody_hands_on_scopes_that_he_lacks(world: World, admin: Client) -> None:
    team = f"team_{next(_numbers)}"
    chief = made(world, admin, administers=team, team=team)
    narrow = with_key(world, admin, chief, scopes=["admin:*"])
    member = made(world, chief)
    path = f"/v1/admin/clients/{member.id}/keys"
    whole = admin.get(path).json["data"][0]["id"]
    for refused in (narrow.post(path, {"scopes": ["*"]}), narrow.post(f"{path}/{whole}/rotate", {})):
        assert (refused.status_code, refused.json["error"]["param"]) == (403, "scopes")
    newcomer = made(world, narrow)  # with a key that reaches as far as its maker's
    assert newcomer.post("/v1/tasks", {"prompt": "x"}).status_code == 403
    assert admin.get(f"/v1/admin/clients/{newcomer.id}/keys").json["data"][0]["scopes"] == ["admin:*"]
    assert chief.post(f"/v1/admin/clients/{chief.id}/keys", {}).status_code == 403
    other = made(world, admin, administers=team, team=team)
    path = f"/v1/admin/clients/{other.id}"
    theirs = admin.get(f"{path}/keys").json["data"][0]["id"]
    assert chief.post(f"{path}/keys/{theirs}/revoke").status_code == 403
    assert chief.post(f"{path}/callback-secret", {}).status_code == 403
    assert chief.post(f"/v1/admin/clients/{chief.id}/callback-secret", {}).status_code == 201


def test_requests_per_minute_are_told_and_refused(world: World, admin: Client, stranger: Client) -> None:
    class OneLeft:
        left = 1

        def take(self, client_id: str, rpm: int) -> Rate:
            self.left -= 1
            return Rate(self.left >= 0, rpm, max(0, self.left), 7.2, 9.1)

    alice = made(world, admin, limits={"rpm": 1})
    world.app.house.gatekeeper._rates = OneLeft()
    try:
        first, second = alice.get("/v1/tasks"), alice.get("/v1/tasks")
        assert first.status_code == stranger.get("/v1/tasks").status_code == 200
        assert first.headers["RateLimit"] == '"requests";r=0;t=10'
        assert first.headers["RateLimit-Policy"] == '"requests";q=1;w=60'
        assert (second.status_code, second.headers["Retry-After"]) == (429, "8")
        assert second.json["error"]["type"] == "rate_limit_error"
    finally:
        world.app.house.gatekeeper._rates = world.parts.rates


def test_no_more_tasks_wait_than_a_client_may_have(world: World, admin: Client, stranger: Client) -> None:
    alice = made(world, admin, limits={"most_waiting": 2})
    alice.submit()
    alice.submit()
    refused = alice.post("/v1/tasks", {"prompt": "x"})
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "too_many_waiting")
    assert alice.post("/v1/batch", {"requests": [{"prompt": "x"}]}).status_code == 429
    stranger.submit()


def spent(world: World, client: Client) -> list[tuple[int, int]]:
    mine = select(budget_use.c.tokens, budget_use.c.picos).where(budget_use.c.client_id == client.id)
    return [tuple(row) for row in world.database.read(lambda c: c.execute(mine).all())]


def keep_budgets(world: World) -> None:
    admission = admission_of(world.parts.settings, world.database, world.parts.clock)
    KeepBudgets(world.database, world.reservoir, admission, world.parts.clock).tick()


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

    world.app.house.submit_batch.submit(alice.id, BatchRequest(), requests())
    assert {tuple(row) for row in later_on} == {(6, "queued")}, "nothing was let go in the middle"
    assert not any(map(sum, spent(world, alice))), "nothing was reserved in the middle"
    keep_budgets(world)
    assert 0 in {row.hold for row in world.database.read(lambda c: c.execute(stored).all())}


def failed(world: World, name: str) -> str:
    """A task of that id that has failed."""
    changed = update(task).where(task.c.id == name).values(status="failed", error_code="upstream_unavailable")
    world.database.write(lambda c: c.execute(changed))
    return name


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


def test_a_policy_holds_for_what_is_run_again(world: World, admin: Client, alice: Client) -> None:
    name = failed(world, alice.submit("hello"))
    rule = {"effect": "deny", "principal": [f"client:{alice.id}"], "resource": [f"api:{MODEL}"]}
    assert admin.post("/v1/admin/policies", rule).status_code == 201
    later(world)
    assert alice.post(f"/v1/tasks/{name}/retry").status_code == 403


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


def test_a_policy_denies_a_model_and_tells_the_caller_no_rule(
    world: World, admin: Client, alice: Client, stranger: Client
) -> None:
    document = {
        "id": "secret-rule",
        "effect": "deny",
        "principal": [f"client:{alice.id}"],
        "resource": [f"api:{MODEL}"],
    }
    assert admin.post("/v1/admin/policies", document).status_code == 201
    later(world)
    refused = alice.post("/v1/tasks", {"prompt": "x"})
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "denied_by_policy")
    assert b"secret-rule" not in refused.data
    assert alice.post("/v1/batch", {"requests": [{"prompt": "x"}]}).status_code == 403
    assert alice.get("/v1/tasks").status_code == 200
    stranger.submit()


def test_a_policy_that_cannot_be_meant_is_refused(admin: Client) -> None:
    refused = admin.post("/v1/admin/policies", {"effect": "deny", "condition": {"moon": {"is": "full"}}})
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "invalid_policy")


def exported(admin: Client, query: str) -> list[Any]:
    return [orjson.loads(line) for line in admin.get(f"/v1/admin/audit?{query}").data.splitlines()]


def test_every_call_stands_in_the_audit_log_without_prompts_or_keys(
    world: World, admin: Client, alice: Client
) -> None:
    name = alice.submit(SECRET_PROMPT, model=MODEL, parameters={"temperature": 0.5, "stop": SECRET_PROMPT})
    world.anonymous("pk_" + "x" * 43).get(f"/v1/tasks/{name}")
    (entry,) = exported(admin, f"client_id={alice.id}")
    assert (entry["action"], entry["status"], entry["model"], entry["task_id"]) == (
        "POST /v1/tasks",
        202,
        MODEL,
        name,
    )
    assert orjson.loads(entry["details"]) == {"temperature": 0.5}
    assert entry["address"] == "127.0.0.1"
    assert entry["key_id"].startswith("ak_")
    assert [e["status"] for e in exported(admin, f"task_id={name}")] == [202, 401]
    everything = str(exported(admin, "limit=1000"))
    assert not any(secret in everything for secret in (SECRET_PROMPT, alice.key, ADMIN_KEY))


def test_the_chain_shows_what_was_taken_out(world: World, admin: Client, alice: Client) -> None:
    for _ in range(3):
        alice.get("/v1/tasks")
    exported(admin, "limit=1")
    KeepAudit(world.database, world.parts.clock, 1e9).tick()
    assert admin.get("/v1/admin/audit/verify").json["holds"]
    number = exported(admin, f"client_id={alice.id}")[1]["number"]
    row = world.database.read(lambda c: c.execute(select(audit).where(audit.c.number == number)).one())
    world.database.write(lambda c: c.execute(audit.delete().where(audit.c.number == number)))
    found = admin.get("/v1/admin/audit/verify").json
    assert (found["holds"], f"{number}" in found["fault"]) == (False, True)
    world.database.write(lambda c: c.execute(audit.insert(), [row._asdict()]))
    assert admin.get("/v1/admin/audit/verify").json["holds"]


def contents(world: World, name: str) -> Any:
    both = select(task_content.c.request, task_content.c.result, task.c.erased_at, task.c.metadata)
    found = both.join(task, task.c.seq == task_content.c.seq).where(task.c.id == name)
    return world.database.read(lambda c: c.execute(found).first())


def test_what_is_not_to_be_stored_is_erased_an_hour_after_its_end(
    world: World, alice: Client, stranger: Client
) -> None:
    name, kept = alice.submit(SECRET_PROMPT, store=False, metadata={"a": "b"}), stranger.submit(SECRET_PROMPT)
    world.end(name, kept)
    keep = KeepRetention(world.database, world.parts.clock, StorageSettings())
    keep.tick()
    assert SECRET_PROMPT in contents(world, name).request
    world.parts.clock.ahead += 3601
    keep.tick()
    row = contents(world, name)
    assert (row.request, row.result, row.metadata) == ("{}", None, None)
    assert alice.task(name)["status"] == "succeeded"
    assert SECRET_PROMPT in contents(world, kept).request


def test_a_deleted_task_is_gone_at_once_and_its_rows_soon(
    world: World, alice: Client, stranger: Client
) -> None:
    name, queued = alice.submit(SECRET_PROMPT), alice.submit()
    world.end(name)
    assert stranger.call("DELETE", f"/v1/tasks/{name}").status_code == 404
    for one in (name, queued):
        assert alice.call("DELETE", f"/v1/tasks/{one}").json == {
            "id": one,
            "object": "task.deleted",
            "deleted": True,
        }
        assert alice.get(f"/v1/tasks/{one}").status_code == 404
    assert alice.get("/v1/tasks").json["data"] == []
    assert contents(world, name).request == "{}"
    KeepRetention(world.database, world.parts.clock, StorageSettings()).tick()
    assert contents(world, name) is None
    assert contents(world, queued) is None
    assert alice.call("DELETE", f"/v1/tasks/{name}").status_code == 404


def test_tasks_are_deleted_when_their_time_is_over(world: World, admin: Client, stranger: Client) -> None:
    alice = made(world, admin, limits={"retention_seconds": 60})
    name, other = alice.submit(), stranger.submit()
    world.end(name, other)
    world.parts.clock.ahead += 61
    keep = KeepRetention(world.database, world.parts.clock, StorageSettings())
    for _ in range(40):  # a tick is bounded, and other tests have left thousands of tasks
        keep.tick()
    assert contents(world, name) is None
    assert contents(world, other) is not None


def test_dead_letters_are_listed_and_replayed_each_client_its_own(
    world: World, admin: Client, alice: Client, stranger: Client
) -> None:
    name = alice.submit(callback_url="https://example.com/hook")
    world.end(name)
    failed = text("UPDATE callback SET status = 'failed', finished_at = :now WHERE task_id = :id")
    values = {"now": world.parts.clock.now(), "id": name}
    world.database.write(lambda c: c.execute(failed, values))
    (letter,) = alice.get("/v1/callbacks").json["data"]
    assert (letter["task_id"], stranger.get("/v1/callbacks").json["data"]) == (name, [])
    assert stranger.post(f"/v1/callbacks/{letter['id']}/replay").status_code == 404
    assert letter["id"] in admin.get("/v1/admin/callbacks").get_data(as_text=True)
    assert stranger.post("/v1/callbacks/replay", {"since": 0}).json == {"replayed": 0}
    assert alice.post(f"/v1/callbacks/{letter['id']}/replay").json == {"replayed": 1}
    assert alice.get("/v1/callbacks").json["data"] == []
    assert alice.post("/v1/callbacks/secret", {}).json["callback_secret"].startswith("whsec_")
