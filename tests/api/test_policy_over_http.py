"""The policy document of the documentation, word for word, as callers meet it behind a trusted proxy."""

import datetime as dt
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import select

from app.platform.database import Database
from app.platform.migrate import upgrade
from app.tasks.store.tables import batch
from tests.api.world import ADMIN_KEY, MODEL, Client, Parts, World, make_settings
from tests.stack import wait_until

DOCUMENT = (
    b'{"effect":"allow","principal":["user:team_a"],"resource":["api:deepseek-chat"],"condition":'
    b'{"time":{"between":["09:00","18:00"]},"ip":{"in":["192.168.1.0/24"]}}}'
)
MODELS = [{"name": name, "tiers": [["k1"]]} for name in ("deepseek-chat", "deepseek-other")]
INSIDE, OUTSIDE = "192.168.1.7", "192.168.2.7"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[World]:
    """Whatever no policy allows is denied; a proxy on this machine is believed."""
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    zones = {"office": [f"{INSIDE}/32"]}
    access = {"default": "deny", "trusted_proxies": ["127.0.0.1/32"], "zones": zones}
    parts = Parts(
        Database(url), url, make_settings(access=access, model=MODELS, default_model="deepseek-chat")
    )
    world = World(parts)
    yield world
    world.app.close()
    parts.database.close()


def at_hour(world: World, hour: int) -> None:
    """Tomorrow, at so many hours UTC."""
    now = dt.datetime.now(dt.UTC)
    then = (now + dt.timedelta(days=1)).replace(hour=hour, minute=0, second=0)
    world.parts.clock.ahead = (then - now).total_seconds()


def status(client: Client, address: str, model: str = "deepseek-chat") -> int:
    return client.post("/v1/tasks", {"prompt": "x", "model": model}, x_forwarded_for=address).status_code


def member(world: World, name: str, team: str) -> Client:
    made = world.anonymous(ADMIN_KEY).post("/v1/admin/clients", {"id": name, "team": team})
    assert made.status_code == 201, made.data
    return Client(name, made.json["api_key"], world.app.test_client())  # type: ignore[index]


def test_the_document_lets_its_team_in_at_its_hours_from_its_addresses_and_nobody_else(
    guarded: World,
) -> None:
    at_hour(guarded, 12)
    alice, stranger = member(guarded, "alice", "team_a"), member(guarded, "stranger", "team_b")
    admin = guarded.anonymous(ADMIN_KEY)
    assert status(alice, INSIDE) == 403
    kept = admin.post("/v1/admin/policies", DOCUMENT, content_type="application/json")
    assert kept.status_code == 201, kept.data
    at_hour(guarded, 13)  # every process has read it by now
    assert status(alice, INSIDE) == 202
    assert status(alice, OUTSIDE) == 403
    assert (
        status(alice, f"{INSIDE}, {OUTSIDE}") == 403
    )  # what a stranger wrote in front of his own is not believed
    assert status(alice, INSIDE, "deepseek-other") == 403
    assert status(stranger, INSIDE) == 403
    at_hour(guarded, 20)
    assert status(alice, INSIDE) == 403
    entries = [orjson.loads(line) for line in admin.get("/v1/admin/audit?client_id=alice").data.splitlines()]
    assert {entry["address"] for entry in entries} == {INSIDE, OUTSIDE}


def test_without_trusted_proxies_a_forwarded_address_is_believed_of_nobody(
    world: World, alice: Client
) -> None:
    name = alice.post("/v1/tasks", {"prompt": "x"}, x_forwarded_for=INSIDE).json["id"]  # type: ignore[index]
    (line,) = world.anonymous(ADMIN_KEY).get(f"/v1/admin/audit?task_id={name}").data.splitlines()
    assert orjson.loads(line)["address"] == "127.0.0.1"


def test_a_zone_holds_whom_it_holds_and_one_that_there_is_not_is_refused(guarded: World) -> None:
    """A deny for a mistyped zone would deny nobody."""
    alice, admin = member(guarded, "alice", "team_a"), guarded.anonymous(ADMIN_KEY)
    rule = {"effect": "allow", "condition": {"zone": {"in": ["ofice"]}}}
    refused = admin.post("/v1/admin/policies", rule)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "condition.zone.in")
    assert "there are office" in refused.json["error"]["message"]
    rule["condition"]["zone"]["in"] = ["office"]  # type: ignore[index]
    assert admin.post("/v1/admin/policies", rule).status_code == 201
    guarded.parts.clock.ahead += 60.0
    assert (status(alice, INSIDE), status(alice, OUTSIDE)) == (202, 403)


def over_a_file(client: Client, address: str) -> Any:
    """The batch over a file of one line, once that has been taken in."""
    body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "x"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    headers = {"authorization": f"Bearer {client.key}", "x-forwarded-for": address}
    form = {"purpose": "batch", "file": (BytesIO(orjson.dumps(line) + b"\n"), "lines.jsonl")}
    file = client.http.post("/v1/files", data=form, headers=headers).json["id"]  # type: ignore[index]
    wish = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made: Any = client.post("/v1/batches", wish, x_forwarded_for=address).json

    def taken_in() -> Any:
        now: Any = client.get(f"/v1/batches/{made['id']}", x_forwarded_for=address).json
        return now if now["status"] != "validating" else None

    return wait_until(taken_in, what="the file to be taken in", every=0.01)


def test_a_file_is_taken_in_in_the_name_of_who_made_the_batch(guarded: World) -> None:
    """Behind the answer nobody asks any more: who it was, and from where, goes with the batch."""
    at_hour(guarded, 12)
    alice, stranger = member(guarded, "alice", "team_a"), member(guarded, "stranger", "team_b")
    guarded.anonymous(ADMIN_KEY).post("/v1/admin/policies", DOCUMENT, content_type="application/json")
    at_hour(guarded, 13)
    assert over_a_file(alice, INSIDE)["status"] == "in_progress"
    for client, address in ((alice, OUTSIDE), (stranger, INSIDE)):
        refused = over_a_file(client, address)
        (error,) = refused["errors"]["data"]
        assert (refused["status"], error["code"], error["line"]) == ("failed", "denied_by_policy", 1)
    left = guarded.database.read(lambda conn: conn.execute(select(batch.c.asker)).scalars().all())
    assert set(left) == {None}


def test_a_page_is_no_way_around_a_policy_and_each_is_in_the_log(guarded: World) -> None:
    alice, admin = member(guarded, "alice", "team_a"), guarded.anonymous(ADMIN_KEY)
    rule = {"effect": "deny", "action": ["tasks:*"], "condition": {"ip": {"not_in": ["192.168.1.0/24"]}}}
    assert admin.post("/v1/admin/policies", rule).status_code == 201
    guarded.parts.clock.ahead += 60.0
    http = guarded.app.test_client()

    def page(path: str, address: str) -> int:
        return http.get(path, headers={"x-forwarded-for": address}).status_code

    token = re.search(r'name="csrf" value="([^"]+)"', http.get("/login").text)
    assert token is not None
    for key, address, code in (
        ("pk_" + "x" * 43, INSIDE, 401), (alice.key, OUTSIDE, 403), (alice.key, INSIDE, 303)
    ):  # fmt: skip
        form = {"csrf": token[1], "key": key}
        assert http.post("/login", data=form, headers={"x-forwarded-for": address}).status_code == code
    assert (page("/", INSIDE), page("/", OUTSIDE)) == (200, 403)
    assert page("/tasks/task_none", INSIDE) == 404
    lines = admin.get("/v1/admin/audit").data.splitlines()
    entries = [orjson.loads(line) for line in lines]
    pages = [e for e in entries if not e["action"].partition(" ")[2].startswith("/v1/")]
    told = [(e["action"], e["client_id"], e["team"], e["address"], e["status"]) for e in pages]
    assert told == [
        ("GET /login", "", "", "127.0.0.1", 200),
        ("POST /login", "", "", INSIDE, 401),
        ("POST /login", "alice", "team_a", OUTSIDE, 403),
        ("POST /login", "alice", "team_a", INSIDE, 303),
        ("GET /", "alice", "team_a", INSIDE, 200),
        ("GET /", "alice", "team_a", OUTSIDE, 403),
        ("GET /tasks/<task_id>", "alice", "team_a", INSIDE, 404),
    ]
    assert all(e["key_id"].startswith("ak_") for e in pages[2:])
    assert pages[-1]["task_id"] == "task_none"


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/tasks", {"prompt": "x"}, MODEL),
        ("/v1/tasks", {"prompt": "x", "model": "deepseek-other"}, "deepseek-other"),
        ("/v1/batch", {"requests": [{"prompt": "x"}, {"prompt": "y"}]}, MODEL),
        ("/v1/batch", {"requests": [{"prompt": "x"}, {"prompt": "y", "model": MODEL}]}, MODEL),
        ("/v1/batch", {"requests": [{"prompt": "x"}, {"prompt": "y", "model": "deepseek-other"}]}, ""),
        ("/v1/batch", {"model": "deepseek-other", "requests": [{"prompt": "x"}]}, "deepseek-other"),
        ("/v1/batch", {"requests": [{"prompt": "x", "priority": "none"}]}, ""),
    ],
)
def test_the_audit_log_names_the_default_model_where_a_request_relies_on_it(
    world: World, alice: Client, path: str, body: dict[str, Any], model: str
) -> None:
    alice.post(path, body)
    admin = world.anonymous(ADMIN_KEY)
    entries = [orjson.loads(line) for line in admin.get("/v1/admin/audit").data.splitlines()]
    assert [e["model"] for e in entries if e["action"] == f"POST {path}"][-1:] == [model]
