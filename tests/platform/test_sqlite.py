"""SQLite: one writer, shared commits, a file that others hold, a disk that is full."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Connection

from app.platform.database import Database, DatabaseTimeouts
from app.platform.domain.errors import DatabaseUnreachable
from tests.platform.transactions import in_threads, put, stored


@pytest.fixture
def sqlite(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "penstock.db").write_bytes(migrated_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/penstock.db", limits=DatabaseTimeouts(busy=0.2))
    yield database
    database.close()


def test_writers_that_wait_share_one_commit_and_a_failing_one_fails_alone(sqlite: Database) -> None:
    busy, go_on = Event(), Event()
    transactions: list[Any] = []

    def hold(conn: Connection) -> None:
        busy.set()
        go_on.wait(60)

    def write(conn: Connection, name: str) -> str:
        transactions.append(conn.get_transaction())
        put(conn, name)
        if name == "bad":
            raise KeyError(name)
        return name

    first = Thread(target=lambda: sqlite.write(hold))
    first.start()
    busy.wait(60)
    names = ["a", "bad", "b", "c"]
    waiting = [lambda name=name: sqlite.write(lambda conn: write(conn, name)) for name in names]
    outcomes: list[Any] = []
    second = Thread(target=lambda: outcomes.extend(in_threads(*waiting)))
    second.start()
    while sqlite._writer._queue.qsize() < len(names):  # type: ignore[attr-defined]
        pass
    go_on.set()
    first.join()
    second.join()
    assert len({id(transaction) for transaction in transactions}) == 1
    assert [str(outcome) for outcome in outcomes] == ["a", "'bad'", "b", "c"]
    assert stored(sqlite) == {"a", "b", "c"}


def test_sqlite_is_durable_and_lets_readers_be(sqlite: Database) -> None:
    def look(conn: Connection) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert sqlite.write(look) == ["wal", 2, 1, 200]
    assert sqlite.read(look) == ["wal", 2, 1, 200]


def test_a_file_that_another_process_holds_is_waited_for(sqlite: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "penstock.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnreachable, match="locked"):
        sqlite.write(lambda conn: put(conn, "a"))
    assert stored(sqlite) == set()  # reading goes on
    patient = Database(f"sqlite:///{tmp_path}/penstock.db")
    outcomes = in_threads(
        lambda: patient.write(lambda conn: put(conn, "b")), lambda: other.execute("ROLLBACK")
    )
    assert outcomes[0] is None
    assert stored(sqlite) == {"b"}
    patient.close()
    other.close()


def test_a_full_disk_is_a_database_out_of_reach_and_nothing_is_half_written(sqlite: Database) -> None:
    sqlite.write(
        lambda conn: conn.exec_driver_sql("PRAGMA max_page_count=1").scalar()
    )  # as many as there are

    def fill(conn: Connection) -> None:
        put(conn, "small")
        for number in range(100):
            put(conn, f"n{number}", "x" * 10_000)

    with pytest.raises(DatabaseUnreachable, match="full"):
        sqlite.write(fill)
    assert stored(sqlite) == set()
    sqlite.write(lambda conn: conn.exec_driver_sql("PRAGMA max_page_count=1000000").scalar())
    sqlite.write(fill)
    assert len(stored(sqlite)) == 101


def test_a_write_inside_a_write_is_an_error_and_no_standstill(sqlite: Database) -> None:
    with pytest.raises(RuntimeError, match="inside a write"):
        sqlite.write(lambda conn: sqlite.write(lambda other: None))
    sqlite.write(lambda conn: put(conn, "a"))
    assert stored(sqlite) == {"a"}


def test_a_closed_database_takes_nothing_more(sqlite: Database) -> None:
    sqlite.write(lambda conn: put(conn, "a"))
    sqlite.close()
    with pytest.raises(DatabaseUnreachable):
        sqlite.write(lambda conn: put(conn, "b"))


def test_a_forked_child_writes_by_a_thread_of_its_own(sqlite: Database) -> None:
    sqlite.write(lambda conn: put(conn, "parent"))
    child = os.fork()
    if child == 0:
        try:
            sqlite.write(lambda conn: put(conn, "child"))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert stored(sqlite) == {"parent", "child"}
