"""The API on each database, built once; tests keep apart by bringing their own clients."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from app.platform.database import Database
from app.platform.migrate import upgrade
from app.reporting.meters import Meters
from tests.api.gatekeeping import later
from tests.api.world import ADMIN_KEY, DAY, NOON, Client, Parts, World
from tests.servers import PostgresServer


def _parts(url: str) -> Parts:
    meters = Meters()
    return Parts(Database(url, ended=meters.ended), url, meters=meters)


@pytest.fixture(scope="session")
def sqlite_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    path: Path = tmp_path_factory.mktemp("api") / "penstock.db"
    upgrade(f"sqlite:///{path}")
    parts = _parts(f"sqlite:///{path}")
    yield parts
    parts.database.close()


@pytest.fixture(scope="session")
def postgresql_parts(postgres_server: PostgresServer) -> Iterator[Parts]:
    url = postgres_server.create_database()
    upgrade(url)
    parts = _parts(url)
    yield parts
    parts.database.close()
    postgres_server.drop_database(url)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def session_world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.getfixturevalue(f"{request.param}_parts"))
    yield world
    world.app.close()


@pytest.fixture
def world(session_world: World) -> World:
    """The API, with a publisher that has forgotten what earlier tests did."""
    session_world.publisher.reset()
    session_world.parts.clock.ahead = NOON
    return session_world


@pytest.fixture
def alice(world: World) -> Client:
    """A client."""
    return world.client()


@pytest.fixture
def stranger(world: World) -> Client:
    """Another client, who must never see anything of Alice's."""
    return world.client()


@pytest.fixture
def admin(world: World) -> Iterator[Client]:
    """An administrator, who takes back the policies that a test has made."""
    client = world.anonymous(ADMIN_KEY)
    yield client
    for policy in client.get("/v1/admin/policies").json["data"]:  # type: ignore[index]
        client.call("DELETE", f"/v1/admin/policies/{policy['id']}")
    later(world)


_days = count(400, 60)


@pytest.fixture
def moved_on(world: World) -> None:
    """The tests before have moved the clock back: begin where nothing that they read counts any more."""
    world.parts.clock.ahead = NOON + next(_days) * DAY
