"""`penstock tasks failed` and `retry`, over a real socket."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from app.cli.root import group
from app.platform.database import Database
from app.platform.migrate import upgrade
from tests.api.test_failed_tasks import fail
from tests.api.world import ADMIN_KEY, Client, Parts, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    world = World(Parts(Database(url), url))
    yield world
    world.app.close()
    world.database.close()


@pytest.fixture
def address(world: World) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, world.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def penstock(address: str, client: Client, *arguments: str) -> Result:
    return CliRunner().invoke(group, ["tasks", *arguments, "--url", address, "--key", client.key])


def test_failed_tasks_are_shown_with_their_reasons_and_run_again_by_id_and_by_reason(
    world: World, address: str
) -> None:
    alice, stranger = world.client(), world.client()
    away = [fail(world, alice.submit()) for _ in range(3)]
    slow = fail(world, alice.submit(), "upstream_timeout")
    fail(world, stranger.submit())
    shown = json.loads(penstock(address, alice, "failed", "--json").output)
    assert [task["id"] for task in shown["data"]] == [slow, *away[::-1]]
    table = penstock(address, alice, "failed", "--reason", "upstream_timeout").output
    assert "upstream_timeout" in table
    assert "upstream_unavailable" not in table
    assert f"{slow} is rerun as task_" in penstock(address, alice, "retry", slow).output
    assert penstock(address, alice, "retry", slow).exit_code == 1
    again = penstock(address, alice, "retry", "--reason", "upstream_unavailable", "--since", "1h")
    assert (again.exit_code, again.output) == (0, "3 tasks rerun.\n")
    assert penstock(address, alice, "retry", "--since", "1h").output == "0 tasks rerun.\n"


def test_a_limit_ends_a_retry_of_many_with_its_reason(world: World, address: str) -> None:
    alice = world.client()
    for _ in range(3):
        fail(world, alice.submit())
    limited = world.anonymous(ADMIN_KEY).call(
        "PATCH", f"/v1/admin/clients/{alice.id}", {"limits": {"most_waiting": 2}}
    )
    assert limited.status_code == 200, limited.data
    world.parts.clock.ahead += 6  # every process has read it by now
    ended = penstock(address, alice, "retry", "--reason", "upstream_unavailable")
    assert ended.exit_code == 1
    assert "2 tasks rerun." in ended.output
    assert "more than 2 tasks would wait" in ended.output


def test_what_to_retry_must_be_said(world: World, address: str) -> None:
    alice = world.client()
    assert penstock(address, alice, "retry").exit_code == 2
    assert penstock(address, alice, "retry", "task_1", "--reason", "x").exit_code == 2
