"""What operators see and steer, and strangers do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import TypeAdapter

from app.access.audit_log import AuditFilter, entries
from app.api.admin_dispatcher import DispatcherShape, PauseList, UpstreamKey, UpstreamKeyList
from app.pacing.store.leader_state import load_pauses
from tests.api.world import ADMIN_KEY, MODEL, Client, World

ROUTES = [
    ("GET", "/v1/admin/dispatcher"),
    ("GET", "/v1/admin/pauses"),
    ("POST", "/v1/admin/pauses"),
    ("POST", "/v1/admin/pauses/end"),
    ("GET", "/v1/admin/keys"),
    ("POST", "/v1/admin/keys/k1/pause"),
    ("POST", "/v1/admin/keys/k1/resume"),
    ("POST", "/v1/admin/keys/k1/test"),
]


@pytest.fixture
def admin(world: World) -> Iterator[Client]:
    """An administrator; whatever is paused ends with the test."""
    caller = world.anonymous(ADMIN_KEY)
    yield caller
    for pause in caller.get("/v1/admin/pauses").json["data"]:  # type: ignore[index]
        kind, _, name = pause["subject"].partition(":")
        caller.post("/v1/admin/pauses/end", {kind: name or True})


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_stranger_sees_and_steers_nothing(
    world: World, stranger: Client, admin: Client, method: str, path: str
) -> None:
    answer = stranger.call(method, path, {"everything": True} if method == "POST" else None)
    assert answer.status_code == 403
    assert world.database.read(load_pauses) == {}


def test_without_redis_the_database_is_shown_and_the_line_says_so(alice: Client, admin: Client) -> None:
    alice.submit()
    answer = admin.get("/v1/admin/dispatcher")
    found = TypeAdapter(DispatcherShape).validate_python(answer.json)
    assert found.holdup.holder == "us"
    assert found.holdup.words.startswith("us: Redis does not answer")
    assert (found.database, found.redis, found.leader.beats) == (True, False, False)
    assert found.waiting >= 1
    assert {key.name for key in found.keys} == {"k1"}


def test_a_pause_is_kept_shown_audited_and_ended(world: World, admin: Client) -> None:
    answer = admin.post("/v1/admin/pauses", {"model": MODEL})
    assert [one.subject for one in TypeAdapter(PauseList).validate_python(answer.json).data] == [
        f"model:{MODEL}"
    ]
    assert set(world.database.read(load_pauses)) == {f"model:{MODEL}"}
    since = world.database.read(load_pauses)[f"model:{MODEL}"]
    admin.post("/v1/admin/pauses", {"model": MODEL})
    assert world.database.read(load_pauses)[f"model:{MODEL}"] == since
    left = admin.post("/v1/admin/pauses/end", {"model": MODEL})
    assert left.json["data"] == []  # type: ignore[index]
    kept = entries(world.database, AuditFilter(action="POST /v1/admin/pauses"), None)
    assert f"model:{MODEL}" in {one.entry.task_id for one in kept}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"everything": True, "model": MODEL}, 400),
        ({"model": "no such model"}, 404),
        ({"client": "nobody-here"}, 404),
        ({"key": "k9"}, 404),
        ({"planet": "earth"}, 400),
    ],
)
def test_a_pause_names_one_thing_that_there_is(
    world: World, admin: Client, body: dict[str, object], status: int
) -> None:
    assert admin.post("/v1/admin/pauses", body).status_code == status
    assert world.database.read(load_pauses) == {}


def test_what_is_not_paused_cannot_be_resumed(admin: Client) -> None:
    answer = admin.post("/v1/admin/pauses/end", {"everything": True})
    assert answer.status_code == 404
    assert answer.json["error"]["message"] == "everything is not paused"  # type: ignore[index]


def test_a_key_is_paused_and_resumed_by_name(admin: Client) -> None:
    paused = TypeAdapter(UpstreamKey).validate_python(admin.post("/v1/admin/keys/k1/pause").json)
    assert (paused.state, paused.reason) == ("paused", "paused by an operator: key k1")
    resumed = TypeAdapter(UpstreamKey).validate_python(admin.post("/v1/admin/keys/k1/resume").json)
    assert resumed.state == "active"
    listed = TypeAdapter(UpstreamKeyList).validate_python(admin.get("/v1/admin/keys").json)
    assert listed.data == [resumed]
    assert admin.post("/v1/admin/keys/k9/pause").status_code == 404
    assert admin.post("/v1/admin/keys/k9/resume").status_code == 404
    assert admin.post("/v1/admin/keys/k9/test").status_code == 404


def test_a_key_whose_secret_is_elsewhere_says_so_and_no_more(admin: Client) -> None:
    answer = admin.post("/v1/admin/keys/k1/test")
    assert answer.status_code == 200
    assert answer.json["finding"] == "not_offered"  # type: ignore[index]
    assert "K1 is not set in the environment" in answer.json["words"]  # type: ignore[index]
