"""What the administrator of a team hands on: no more than it has."""

from itertools import count

import pytest

from tests.api.gatekeeping import later, made, with_key
from tests.api.world import MODEL, Client, World

_numbers = count(1)
pytestmark = pytest.mark.usefixtures("moved_on")


@pytest.fixture
def team(world: World) -> str:
    return f"del_{next(_numbers)}_{world.database.dialect}"


def fields(client: Client, admin: Client) -> dict[str, object]:
    return dict(admin.get(f"/v1/admin/clients/{client.id}").json)  # type: ignore[arg-type]


def test_new_clients_share_the_limits_and_the_weight_of_who_adds_them(
    world: World, admin: Client, team: str
) -> None:
    limits = {"rpm": 600, "tokens_per_day": 9000, "money_per_day": "1", "currency": "USD", "store": False}
    chief = made(world, admin, administers=team, team=team, limits=limits, weight=2.0, granted_priority="low")
    members = [made(world, chief) for _ in range(3)]
    for member in members:
        found = fields(member, admin)
        assert found["limits"] == {
            "rpm": 200,
            "tokens_per_day": 3000,
            "money_per_day": "0.333333",
            "currency": "USD",
            "store": False,
        }
        assert (found["weight"], found["granted_priority"]) == (pytest.approx(2 / 3), "low")
    raised = {"limits": {"tokens_per_day": 90_000}}
    assert admin.call("PATCH", f"/v1/admin/clients/{chief.id}", raised).status_code == 200
    assert [fields(member, admin)["limits"] for member in members] == [{"tokens_per_day": 30_000}] * 3
    own = {"limits": {"tokens_per_day": 7}}
    assert admin.call("PATCH", f"/v1/admin/clients/{members[0].id}", own).status_code == 200
    made(world, chief)
    shared = [fields(member, admin)["limits"] for member in members]
    assert shared == [{"tokens_per_day": 7}, *[{"tokens_per_day": 30_000}] * 2]


def test_a_new_client_is_no_way_round_the_limits_of_its_team(world: World, admin: Client, team: str) -> None:
    chief = made(world, admin, administers=team, team=team)
    one = made(world, admin, team=team, limits={"tokens_per_day": 100, "most_waiting": 3})
    body = {"prompt": "x", "parameters": {"max_tokens": 5000}}
    assert one.post("/v1/tasks", body).status_code == 402
    free = made(world, chief)
    assert fields(free, admin)["limits"] == {"tokens_per_day": 100, "most_waiting": 3}
    assert free.post("/v1/tasks", body).status_code == 402


def test_where_nothing_is_left_to_share_no_client_is_added(world: World, admin: Client, team: str) -> None:
    chief = made(world, admin, administers=team, team=team, limits={"most_waiting": 2})
    made(world, chief), made(world, chief)
    refused = chief.post("/v1/admin/clients", {"id": f"third-{world.database.dialect}"})
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "nothing_left_to_share")
    assert admin.get(f"/v1/admin/clients/third-{world.database.dialect}").status_code == 404


@pytest.fixture
def closed(world: World, admin: Client) -> None:
    """The model is for `user:alice`, `client:vip-*`, and one client of another team's name alone."""
    allow = {"effect": "allow", "principal": ["user:alice", "client:vip-*"], "resource": [f"model:{MODEL}"]}
    for rule in ({"effect": "deny", "principal": ["user:contractor"]}, allow):
        assert admin.post("/v1/admin/policies", rule).status_code == 201
    later(world)


@pytest.mark.usefixtures("closed")
def test_a_name_that_a_policy_allows_is_not_a_team_administrators_to_give(
    world: World, admin: Client, team: str
) -> None:
    chief = made(world, admin, administers=team, team=team)
    for name in ("alice", "vip-1"):
        refused = chief.post("/v1/admin/clients", {"id": name})
        assert (refused.status_code, refused.json["error"]["param"]) == (403, "id")
    member = made(world, chief)
    answer = chief.post(f"/v1/admin/clients/{member.id}/keys", {"user": "alice"})
    assert (answer.status_code, answer.json["user"]) == (201, f"{team}/alice")
    key = with_key(world, chief, member, user="contractor")
    assert key.post("/v1/tasks", {"prompt": "x"}).status_code == 403, "a deny holds by the bare name"
    theirs = with_key(world, admin, member, user="alice")
    (row,) = [
        row for row in admin.get(f"/v1/admin/clients/{theirs.id}/keys").json["data"] if row["user"] == "alice"
    ]
    rotate = f"/v1/admin/clients/{member.id}/keys/{row['id']}/rotate"
    assert chief.post(rotate, {}).status_code == 403
    assert admin.post(rotate, {}).json["user"] == "alice"


def test_an_administrator_of_the_service_gives_out_anything(world: World, admin: Client, team: str) -> None:
    member = made(world, admin, team=team)
    assert fields(member, admin)["limits"] == {}
    assert fields(member, admin)["weight"] == 1.0
    path = f"/v1/admin/clients/{member.id}/keys"
    assert admin.post(path, {"user": "alice"}).json["user"] == "alice"
