"""What every test may ask for: a real Redis, a real PostgreSQL, a fresh database on either engine."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from tests.databases import database, migrated_file, migrated_server, migrated_url  # noqa: F401 - fixtures
from tests.servers import PostgresServer, RedisServer

# A busy machine is no failure, and the same commit gives the same verdict: the same examples every time.
# `make explore` tries new ones.
settings.register_profile(
    "penstock", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=300)
settings.load_profile("penstock")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test is marked by its folder: tests/pacing/... is `pacing`, so that `-m "not chaos"` works."""
    for item in items:
        folders = item.path.relative_to(HERE).parts[:-1] if item.path.is_relative_to(HERE) else ()
        if folders:
            item.add_marker(folders[0])


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the whole run. Do not kill, freeze or reconfigure it: `make_redis` is for that."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.script_flush()
    return redis_server.url


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """make_redis(appendonly=True, maxmemory="20mb"): a server to kill, restart and freeze."""
    servers: list[RedisServer] = []
    numbers = count(1)

    def make(appendonly: bool = False, **options: str) -> RedisServer:
        server = RedisServer(tmp_path / f"redis-{next(numbers)}", appendonly, **options)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole run. Do not kill it: `make_postgres` is for that."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def make_postgres() -> Iterator[Callable[[], PostgresServer]]:
    """A PostgreSQL of the test's own, to kill and restart. Each takes about two seconds to make."""
    servers: list[PostgresServer] = []

    def make() -> PostgresServer:
        servers.append(PostgresServer())
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a new, empty SQLite database in a file."""
    return f"sqlite:///{tmp_path}/penstock.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty database; the test runs once on each engine."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
