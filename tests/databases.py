"""A migrated database for each test, on either engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.composition.schema import metadata
from app.platform.database import Database
from app.platform.migrate import connected, upgrade
from tests.servers import PostgresServer


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "penstock.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_server(postgres_server: PostgresServer) -> str:
    url = postgres_server.create_database()
    upgrade(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database; the test runs once on each engine. Do not change its schema."""
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("tmp_path") / "penstock.db"
        shutil.copy(request.getfixturevalue("migrated_file"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("migrated_server")
    with connected(url) as connection:  # much quicker than a database of its own
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
        connection.commit()
    return url


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """A migrated, empty database on each engine."""
    database = Database(migrated_url)
    yield database
    database.close()
