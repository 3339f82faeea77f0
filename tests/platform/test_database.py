"""Transactions on either engine: shared commits, failures that stay alone, and a database out of reach."""

from time import monotonic

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from tests.platform.transactions import in_threads, put, stored


def test_what_was_written_is_read(database: Database) -> None:
    assert database.write(lambda conn: (put(conn, "a"), "given back")[1]) == "given back"
    assert stored(database) == {"a"}


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def fail(conn: Connection) -> None:
        put(conn, "a")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        database.write(fail)
    assert stored(database) == set()


def test_an_error_of_a_statement_stays_what_it_is_and_shows_no_values(database: Database) -> None:
    database.write(lambda conn: put(conn, "a"))
    with pytest.raises(IntegrityError) as caught:
        database.write(lambda conn: put(conn, "a", figures="the secret prompt"))
    assert "the secret prompt" not in str(caught.value)


def test_reading_changes_nothing(database: Database) -> None:
    with pytest.raises((DBAPIError, DatabaseUnreachable)):
        database.read(lambda conn: put(conn, "a"))
    assert stored(database) == set()


def test_a_reader_sees_one_moment_whatever_is_written_meanwhile(database: Database) -> None:
    def look(conn: Connection) -> tuple[int, int]:
        count = text("SELECT count(*) FROM learned")
        before = conn.execute(count).scalar_one()
        database.write(lambda other: put(other, "a"))
        return before, conn.execute(count).scalar_one()

    assert database.read(look) == (0, 0)
    assert stored(database) == {"a"}


def test_many_threads_write_at_once_and_nothing_is_lost(database: Database) -> None:
    def write(number: int) -> None:
        for step in range(5):
            database.write(lambda conn, step=step: put(conn, f"{number}-{step}"))

    outcomes = in_threads(*(lambda number=number: write(number) for number in range(30)))
    assert outcomes == [None] * 30
    assert len(stored(database)) == 150


def test_ping_returns_when_the_database_answers(database: Database) -> None:
    database.ping()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://postgres@127.0.0.1:1/none",
        "postgresql://postgres@127.0.0.1:1/none",
        "postgres://postgres@127.0.0.1:1/none",
        "sqlite:////no/such/folder/penstock.db",
    ],
)
def test_a_database_that_is_not_there_is_out_of_reach_at_once(url: str) -> None:
    database = Database(url)
    began = monotonic()
    for act in (database.ping, lambda: database.write(lambda conn: put(conn, "a"))):
        with pytest.raises(DatabaseUnreachable) as caught:
            act()
        assert caught.value.retry_after > 0
    assert monotonic() - began < 60
    database.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://user:hunter2@host/name", "nonsense hunter2", ""]
)
def test_another_kind_of_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)
