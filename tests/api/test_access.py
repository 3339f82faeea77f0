"""Who may call, and what everybody else is told."""

import os
from typing import Any

import pytest
from sqlalchemy import select

from app.access.authenticate import CACHE_SECONDS, Authenticate
from app.access.domain.caller import make_key
from app.access.manage_clients import add_client, add_key, list_clients
from app.access.store.clients import add_api_key, get_client, revoke_api_key
from app.platform.domain.errors import Conflict, Invalid, NotFound, Unauthenticated
from app.tasks.store.tables import api_key
from tests.api.world import ADMIN_KEY, Client, World

CALLS = [
    ("POST", "/v1/tasks"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/tasks/task_1"),
    ("GET", "/v1/tasks/task_1/attempts"),
    ("GET", "/v1/tasks/task_1/deliveries"),
    ("POST", "/v1/tasks/task_1/cancel"),
    ("POST", "/v1/batch"),
    ("POST", "/api/v1/batch"),
    ("GET", "/v1/batch/batch_1"),
    ("GET", "/v1/batch/batch_1/results"),
    ("POST", "/v1/batch/batch_1/cancel"),
]


WRONG = ["", "Bearer", "Bearer ", "Basic abc", "Bearer pk_x", "pk_" + "a" * 43, "Bearer é"]


@pytest.mark.parametrize(
    ("method", "path", "authorization"),
    [*((method, path, None) for method, path in CALLS), *(("GET", "/v1/tasks", wrong) for wrong in WRONG)],
)
def test_without_a_valid_key_every_call_is_401(
    world: World, method: str, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer: Any = world.app.test_client().open(path, method=method, headers=headers)
    assert answer.status_code == 401
    assert answer.json["error"]["type"] == "authentication_error"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_unknown_key_of_the_right_form_is_401(world: World) -> None:
    assert world.anonymous("pk_" + "a" * 43).get("/v1/tasks").status_code == 401


def test_the_scheme_may_be_written_in_any_case(alice: Client) -> None:
    answer = alice.http.get("/v1/tasks", headers={"Authorization": f"bearer  {alice.key} "})
    assert answer.status_code == 200


def test_the_key_from_the_environment_is_an_administrators(world: World) -> None:
    caller = world.app.use_cases.authenticate.caller_of(ADMIN_KEY)
    assert (caller.client_id, caller.is_admin) == ("admin", True)
    assert world.database.read(lambda c: get_client(c, "admin")) is not None


def test_keys_are_stored_only_as_their_hashes(world: World, alice: Client) -> None:
    rows = world.database.read(lambda c: c.execute(select(api_key)).all())
    assert rows
    assert not any(alice.key in str(row) or ADMIN_KEY in str(row) for row in rows)


def test_a_revoked_key_is_refused_within_seconds(world: World, alice: Client) -> None:
    clock = world.parts.clock
    use_cases = world.app.use_cases
    key = make_key(os.urandom(32))
    key_id = f"ak_{alice.id}"
    world.database.write(lambda c: add_api_key(c, key_id, alice.id, key.hash, key.hint, clock.now()))
    assert use_cases.authenticate.caller_of(key.shown).client_id == alice.id
    world.database.write(lambda c: revoke_api_key(c, alice.id, key_id, clock.now()))
    clock.ahead += CACHE_SECONDS + 0.1
    with pytest.raises(Unauthenticated):
        use_cases.authenticate.caller_of(key.shown)


def test_an_expired_key_is_refused(world: World, alice: Client) -> None:
    clock = world.parts.clock
    key = make_key(os.urandom(32))
    at = clock.now()
    world.database.write(
        lambda c: add_api_key(c, f"ak_e{alice.id}", alice.id, key.hash, key.hint, at, expires_at=at + 60)
    )
    assert world.app.use_cases.authenticate.caller_of(key.shown)
    clock.ahead += 61
    with pytest.raises(Unauthenticated):
        world.app.use_cases.authenticate.caller_of(key.shown)


def test_a_known_key_is_asked_of_the_database_once_in_five_seconds(world: World, alice: Client) -> None:
    class CountingDatabase:
        reads = 0

        def read(self, fn: Any) -> Any:
            self.reads += 1
            return world.database.read(fn)

    database = CountingDatabase()
    authenticate = Authenticate(database, world.parts.clock)  # type: ignore[arg-type]
    for _ in range(50):
        authenticate.caller_of(alice.key)
    assert database.reads == 1
    world.parts.clock.ahead += CACHE_SECONDS + 0.1
    authenticate.caller_of(alice.key)
    assert database.reads == 2


def test_adding_a_client_gives_its_secrets_once(world: World) -> None:
    made = add_client(world.database, world.parts.clock, "acme-1", weight=2.0, granted_priority="high")
    assert made.api_key.startswith("pk_")
    assert made.callback_secret.startswith("whsec_")
    (row,) = [client for client in list_clients(world.database) if client.id == "acme-1"]
    assert (row.weight, row.granted_priority, row.is_admin) == (2.0, "high", False)
    with pytest.raises(Conflict):
        add_client(world.database, world.parts.clock, "acme-1")
    second = add_key(world.database, world.parts.clock, "acme-1")
    assert {world.app.use_cases.authenticate.caller_of(key).client_id for key in (made.api_key, second)} == {
        "acme-1"
    }


@pytest.mark.parametrize(
    "wishes",
    [
        {"name": "A"},
        {"name": ""},
        {"name": "a.b"},
        {"name": "a", "weight": 0},
        {"name": "a", "granted_priority": "x"},
    ],
)
def test_a_client_that_cannot_be_is_refused(world: World, wishes: Any) -> None:
    with pytest.raises(Invalid):
        add_client(world.database, world.parts.clock, **wishes)


def test_a_key_for_nobody_is_refused(world: World) -> None:
    with pytest.raises(NotFound):
        add_key(world.database, world.parts.clock, "nobody-at-all")
