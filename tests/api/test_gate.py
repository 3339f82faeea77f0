"""Scopes, teams, limits, policies, the audit log, dead letters. A stranger is in every test."""

from itertools import count
from typing import Any

import orjson
import pytest
from sqlalchemy import select, text

from app.access.request_rates import Rate
from app.access.store.access_tables import audit
from app.api.auditing import plain_parameters
from app.dispatching.housekeeping import ChainAudit
from tests.api.gatekeeping import failed, later, made, with_key
from tests.api.world import ADMIN_KEY, MODEL, Client, World

_numbers = count(1)
SECRET_PROMPT = "the goose flies at midnight"

pytestmark = pytest.mark.usefixtures("moved_on")


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
    world.app.access_control._rates = OneLeft()
    try:
        first, second = alice.get("/v1/tasks"), alice.get("/v1/tasks")
        assert first.status_code == stranger.get("/v1/tasks").status_code == 200
        assert first.headers["RateLimit"] == '"requests";r=0;t=10'
        assert first.headers["RateLimit-Policy"] == '"requests";q=1;w=60'
        assert (second.status_code, second.headers["Retry-After"]) == (429, "8")
        assert second.json["error"]["type"] == "rate_limit_error"
    finally:
        world.app.access_control._rates = world.parts.rates


def test_no_more_tasks_wait_than_a_client_may_have(world: World, admin: Client, stranger: Client) -> None:
    alice = made(world, admin, limits={"most_waiting": 2})
    alice.submit()
    alice.submit()
    refused = alice.post("/v1/tasks", {"prompt": "x"})
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "too_many_waiting")
    assert alice.post("/v1/batch", {"requests": [{"prompt": "x"}]}).status_code == 429
    stranger.submit()


def test_a_policy_holds_for_what_is_run_again(world: World, admin: Client, alice: Client) -> None:
    name = failed(world, alice.submit("hello"))
    rule = {"effect": "deny", "principal": [f"client:{alice.id}"], "resource": [f"api:{MODEL}"]}
    assert admin.post("/v1/admin/policies", rule).status_code == 201
    later(world)
    assert alice.post(f"/v1/tasks/{name}/retry").status_code == 403


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
    assert "(denied by a policy for this time or address)" in refused.json["error"]["message"]
    assert b"secret-rule" not in refused.data
    requests = [{"prompt": "x", "model": "org/other.model"}, {"prompt": "x"}]
    second = alice.post("/v1/batch", {"requests": requests}).json["error"]
    assert second["param"] == "requests[1].model"
    assert second["message"].startswith("requests[1].model: ")
    assert alice.post("/v1/batch", {"requests": [{"prompt": "x"}]}).status_code == 403
    assert alice.get("/v1/tasks").status_code == 200
    stranger.submit()


def test_a_policy_that_cannot_be_meant_is_refused(admin: Client) -> None:
    refused = admin.post("/v1/admin/policies", {"effect": "deny", "condition": {"moon": {"is": "full"}}})
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "invalid_policy")


def exported(admin: Client, query: str) -> list[Any]:
    return [orjson.loads(line) for line in admin.get(f"/v1/admin/audit?{query}").data.splitlines()]


@pytest.mark.parametrize(
    ("requests", "model", "details"),
    [
        ([{"model": MODEL, "temperature": 0.5}] * 2, MODEL, {"temperature": 0.5}),
        (
            [{"model": MODEL, "temperature": 0.5, "n": 1}, {"model": MODEL, "temperature": 1.5, "n": 1}],
            MODEL,
            {"n": 1},
        ),
        ([{"model": MODEL}, {"model": MODEL, "temperature": 1.0}], MODEL, None),
    ],
)
def test_a_batch_of_one_model_names_it_and_the_parameters_in_which_its_requests_agree(
    admin: Client, alice: Client, requests: list[dict[str, Any]], model: str, details: dict[str, Any] | None
) -> None:
    body = {"requests": [{"prompt": SECRET_PROMPT, "user": SECRET_PROMPT, **one} for one in requests]}
    assert alice.post("/v1/batch", body).status_code == 202
    (entry,) = exported(admin, f"client_id={alice.id}")
    assert entry["model"] == model
    kept = orjson.loads(entry["details"]) if entry["details"] else {}
    assert {name: value for name, value in kept.items() if value != "given"} == (details or {})
    assert SECRET_PROMPT not in str(entry)


def test_a_refused_batch_names_the_model_that_was_asked_for(admin: Client, alice: Client) -> None:
    body = {"requests": [{"prompt": "x", "model": "no-such-model", "temperature": 0.5}]}
    assert alice.post("/v1/batch", body).status_code == 400
    (entry,) = exported(admin, f"client_id={alice.id}")
    assert (entry["model"], entry["status"]) == ("no-such-model", 400)


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


PLANTED = "机密合同总结"


@pytest.mark.parametrize(
    "name", ["suffix", "prefix", "input", "system", "api_key", "未知", "reasoning_effort"]
)
@pytest.mark.parametrize("value", [PLANTED, "PLANTEDPREFIXWORD", "sk_live_abcdef"])
def test_no_word_of_a_prompt_is_kept_whatever_it_is_called(name: str, value: str) -> None:
    assert value not in str(plain_parameters({name: value, "n": 2}))
    assert plain_parameters({"n": 2, "reasoning_effort": "low"}) == {"n": 2, "reasoning_effort": "low"}


def test_a_key_cannot_be_tried_without_an_entry(world: World, admin: Client, alice: Client) -> None:
    for key in (alice.key, "pk_" + "z" * 43):
        headers = {"Authorization": f"Bearer {key}"}
        world.app.test_client().head("/v1/models", headers=headers)
        world.app.test_client().get("/metrics", headers=headers)
    world.app.test_client().get("/metrics")  # a scrape without a key: no entry
    found = [
        (entry["action"], entry["client_id"], entry["status"]) for entry in exported(admin, "limit=1000")
    ]
    mine = [one for one in found if one[1] == alice.id or one[0].startswith("HEAD")]  # other tests ask, too
    asked = [one for one in mine if one[0].endswith(("/metrics", "/v1/models"))]
    # The second refusal of one minute is folded into a later entry.
    assert asked == [
        ("HEAD /v1/models", alice.id, 200),
        ("GET /metrics", alice.id, 200),
        ("HEAD /v1/models", "", 401),
    ]


def test_the_chain_shows_what_was_taken_out(world: World, admin: Client, alice: Client) -> None:
    for _ in range(3):
        alice.get("/v1/tasks")
    exported(admin, "limit=1")
    ChainAudit(world.database, world.parts.clock, 1e9).tick()
    assert admin.get("/v1/admin/audit/verify").json["holds"]
    number = exported(admin, f"client_id={alice.id}")[1]["number"]
    row = world.database.read(lambda c: c.execute(select(audit).where(audit.c.number == number)).one())
    world.database.write(lambda c: c.execute(audit.delete().where(audit.c.number == number)))
    found = admin.get("/v1/admin/audit/verify").json
    assert (found["holds"], f"{number}" in found["fault"]) == (False, True)
    world.database.write(lambda c: c.execute(audit.insert(), [row._asdict()]))
    assert admin.get("/v1/admin/audit/verify").json["holds"]


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
