"""A database with one client and the parts that deliver its callbacks, time in our hands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.composition.schema import metadata
from app.platform.database import Database
from tests.callbacks.world import World, create_tables
from tests.servers import PostgresServer


@pytest.fixture(scope="session")
def callback_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """SQLite with all tables, made once."""
    folder: Path = tmp_path_factory.mktemp("callbacks")
    url = f"sqlite:///{folder}/penstock.db"
    create_tables(url)
    database = Database(url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def callback_postgresql(postgres_server: PostgresServer) -> Iterator[Database]:
    """PostgreSQL with all tables, made once."""
    url = postgres_server.create_database()
    create_tables(url)
    database = Database(url)
    yield database
    database.close()
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database with all tables; the test runs once on each engine."""
    database: Database = request.getfixturevalue(f"callback_{request.param}")
    tables = metadata.sorted_tables[::-1]
    database.write(lambda conn: [conn.execute(table.delete()) for table in tables])
    return database


@pytest.fixture
def world(database: Database) -> World:
    """Alice and her callbacks."""
    return World(database)
