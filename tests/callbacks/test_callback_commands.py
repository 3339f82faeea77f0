"""`penstock callbacks`, on a database."""

import json

import pytest
from click.testing import CliRunner, Result

from app.callbacks.domain.callback import DeliveryReply
from app.cli.callbacks import group
from app.cli.listen import _stored_secrets
from app.platform.database import Database
from app.platform.domain.errors import NotFound
from tests.callbacks.world import SECRET, World, create_tables, verifies

URL = "https://receiver.example/hook"


@pytest.fixture
def told(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Alice has two dead letters, Bob one; the command line finds their database."""
    create_tables(sqlite_url)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    world = World(Database(sqlite_url))
    world.add_task()
    for callback_id, client in (("evt_1", "alice"), ("evt_2", "alice"), ("evt_3", "bob")):
        world.add_callback(callback_id, client_id=client)
    world.receivers.answers[URL] = DeliveryReply(410)
    world.run()
    world.receivers.answers.clear()
    return world


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments)


def test_dead_letters_are_listed_with_their_reason(told: World) -> None:
    shown = [json.loads(line) for line in _run("dead", "--json").output.splitlines()]
    assert [letter["id"] for letter in shown] == ["evt_3", "evt_2", "evt_1"]
    assert "410" in _run("dead").output
    alone = _run("dead", "--client", "bob", "--json").output.splitlines()
    assert [json.loads(line)["id"] for line in alone] == ["evt_3"]


def test_one_is_replayed_by_its_id_and_then_delivered(told: World) -> None:
    assert _run("replay", "evt_2").exit_code == 0
    told.clock.at = 4_000_000_000.0
    told.run()
    assert told.callback("evt_2").status == "delivered"
    assert told.callback("evt_1").status == "failed"


def test_all_of_a_client_are_replayed_since_a_time(told: World) -> None:
    assert (
        "2 callbacks queued for redelivery"
        in _run("replay", "--since", "2027-01-01T00:00:00Z", "--client", "alice").output
    )
    assert told.callback("evt_3").status == "failed"


@pytest.mark.parametrize("arguments", [[], ["evt_1", "--since", "1h"], ["--since", "soon"]])
def test_wrong_usage_is_explained(told: World, arguments: list[str]) -> None:
    assert _run("replay", *arguments).exit_code == 2


def test_an_unknown_id_is_a_failure_with_its_mend(told: World) -> None:
    result = _run("replay", "evt_unknown")
    assert result.exit_code == 1


def test_a_rotated_secret_is_printed_and_signs(told: World) -> None:
    secret = _run("rotate-secret", "alice", "--overlap", "1h").output.strip()
    assert secret.startswith("whsec_")
    told.add_callback("evt_9")
    told.run()
    assert verifies(told.receivers.sent[-1], secret, told.clock.now())
    assert not verifies(told.receivers.sent[-1], SECRET, told.clock.now())


def test_a_secret_is_printed_and_during_a_rotation_both(told: World) -> None:
    before = _run("secret", "alice").output.split()
    assert before == [SECRET]
    new = _run("rotate-secret", "alice", "--overlap", "2d").output.strip()
    assert _run("secret", "alice").output.split() == [SECRET, new]
    assert _run("rotate-secret", "bob", "--overlap", "0s").exit_code == 0
    assert len(_run("secret", "bob").output.split()) == 1
    assert isinstance(_run("secret", "nobody").exception, NotFound)


def test_listen_verifies_with_the_stored_secret_of_a_client(told: World) -> None:
    assert _stored_secrets("alice") == (SECRET,)
    assert _stored_secrets("nobody") == ()


def test_headers_are_set_and_taken_away(told: World) -> None:
    assert _run("headers", "alice", "-H", "X-Token: abc").exit_code == 0
    told.add_callback("evt_9")
    told.run()
    assert told.receivers.sent[-1].headers["X-Token"] == "abc"
    assert _run("headers", "alice").exit_code == 0
    told.add_callback("evt_10")
    told.run()
    assert "X-Token" not in told.receivers.sent[-1].headers


@pytest.mark.parametrize("header", ["webhook-id: evt_forged", "Host: inside", "no colon"])
def test_headers_that_may_not_be_set_are_refused(told: World, header: str) -> None:
    assert _run("headers", "alice", "-H", header).exit_code != 0
