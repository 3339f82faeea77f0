"""The schema: what migrations make is what the tables say, and several processes may migrate at once."""

import multiprocessing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.composition.schema import metadata
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.migrate import _config, connected, head_is_current, upgrade


def test_migrations_make_what_alembic_would_make_of_the_tables(migrated_url: str) -> None:
    with connected(migrated_url) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_migrations_make_every_table_and_index_as_the_tables_would(
    migrated_url: str, request: pytest.FixtureRequest
) -> None:
    """Alembic does not compare conditions of partial indexes and storage parameters: the databases' own words do."""
    empty = request.getfixturevalue("tmp_path") / "other.db"
    other = f"sqlite:///{empty}"
    if migrated_url.startswith("postgresql"):
        other = request.getfixturevalue("postgresql_url")
    with connected(other) as connection:
        metadata.create_all(connection)
        connection.commit()
    assert _schema(migrated_url) == _schema(other)


def _schema(url: str) -> dict[str, str]:
    with connected(url) as connection:
        if connection.dialect.name == "sqlite":
            found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
            schema = {row.name: _normal(row.sql) for row in found}
        else:
            found = connection.execute(
                sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
            )
            schema = {row.indexname: row.indexdef for row in found}
            storage = connection.execute(
                sa.text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL")
            )
            schema |= {row.relname: str(row.reloptions) for row in storage}
    return {name: words for name, words in schema.items() if "alembic" not in name}


def _normal(sql: str) -> str:
    """A CREATE statement without its line breaks, and with its constraints in one order."""
    head, _, rest = sql.replace("\t", " ").replace("\n", " ").partition("(")
    return head.strip() + "(" + ",".join(sorted(part.strip() for part in rest.rstrip(") ").split(","))) + ")"


def test_a_database_is_current_after_its_upgrade_and_not_before(database_url: str) -> None:
    assert not head_is_current(database_url)
    upgrade(database_url)
    assert head_is_current(database_url)


def test_an_upgrade_of_a_current_database_changes_nothing(database: Database, migrated_url: str) -> None:
    database.write(lambda conn: conn.execute(sa.text("INSERT INTO learned VALUES ('q', '{}', 1)")))
    upgrade(migrated_url)
    assert database.read(lambda conn: conn.execute(sa.text("SELECT count(*) FROM learned")).scalar()) == 1


def test_asking_for_a_file_that_is_not_there_does_not_make_it(tmp_path: Path) -> None:
    assert not head_is_current(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_upgrade_does_not_depend_on_the_working_directory(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    upgrade(database_url)
    assert head_is_current(database_url)


def test_every_step_can_be_taken_back(database_url: str) -> None:
    upgrade(database_url)
    with connected(database_url) as connection:
        command.downgrade(_config(connection), "base")
        connection.commit()
        assert set(sa.inspect(connection).get_table_names()) == {"alembic_version"}


def test_processes_that_upgrade_at_once_all_find_a_current_database(database_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=upgrade, args=(database_url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert head_is_current(database_url)


def test_a_database_out_of_reach_is_said_to_be_so() -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/none"
    with pytest.raises(DatabaseUnreachable):
        upgrade(nowhere)
    with pytest.raises(DatabaseUnreachable):
        head_is_current(nowhere)
    with pytest.raises(DatabaseUnreachable):
        upgrade("sqlite:////no/such/folder/penstock.db")
