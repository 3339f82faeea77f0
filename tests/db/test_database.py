"""Transactions: shared commits, failures that stay alone, and a database out of reach."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Event, Thread
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.db.database import Database, Limits
from app.db.tables import learned
from app.domain.errors import DatabaseUnreachable
from tests.servers import PostgresServer

QUICK = Limits(connect=1, checkout=0.5, lock=0.5, statement=0.5, answer=1.0, busy=0.2)


def _put(conn: Connection, name: str, figures: str = "{}") -> None:
    conn.execute(learned.insert().values(quota=name, figures=figures, updated_at=0.0))


def _names(database: Database) -> set[str]:
    return set(database.read(lambda conn: conn.execute(text("SELECT quota FROM learned")).scalars()))


def _in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """Run the jobs at once; gives back what each returned or raised, in order."""
    outcomes: list[Any] = [None] * len(jobs)

    def run(number: int) -> None:
        try:
            outcomes[number] = jobs[number]()
        except Exception as error:  # noqa: BLE001 - it is the outcome
            outcomes[number] = error

    threads = [Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


@pytest.fixture
def sqlite(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "penstock.db").write_bytes(migrated_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/penstock.db", limits=QUICK)
    yield database
    database.close()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    """With one table, and short limits."""
    database = Database(postgresql_url, pool_size=3, limits=QUICK)
    database.write(learned.create)
    yield database
    database.close()


# both


def test_what_was_written_is_read(database: Database) -> None:
    assert database.write(lambda conn: (_put(conn, "a"), "given back")[1]) == "given back"
    assert _names(database) == {"a"}


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def fail(conn: Connection) -> None:
        _put(conn, "a")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        database.write(fail)
    assert _names(database) == set()


def test_an_error_of_a_statement_stays_what_it_is_and_shows_no_values(database: Database) -> None:
    database.write(lambda conn: _put(conn, "a"))
    with pytest.raises(IntegrityError) as caught:
        database.write(lambda conn: _put(conn, "a", figures="the secret prompt"))
    assert "the secret prompt" not in str(caught.value)


def test_reading_changes_nothing(database: Database) -> None:
    with pytest.raises((DBAPIError, DatabaseUnreachable)):
        database.read(lambda conn: _put(conn, "a"))
    assert _names(database) == set()


def test_a_reader_sees_one_moment_whatever_is_written_meanwhile(database: Database) -> None:
    def look(conn: Connection) -> tuple[int, int]:
        count = text("SELECT count(*) FROM learned")
        before = conn.execute(count).scalar_one()
        database.write(lambda other: _put(other, "a"))
        return before, conn.execute(count).scalar_one()

    assert database.read(look) == (0, 0)
    assert _names(database) == {"a"}


def test_many_threads_write_at_once_and_nothing_is_lost(database: Database) -> None:
    def write(number: int) -> None:
        for step in range(5):
            database.write(lambda conn, step=step: _put(conn, f"{number}-{step}"))

    outcomes = _in_threads(*(lambda number=number: write(number) for number in range(30)))
    assert outcomes == [None] * 30
    assert len(_names(database)) == 150


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
    for act in (database.ping, lambda: database.write(lambda conn: _put(conn, "a"))):
        with pytest.raises(DatabaseUnreachable) as caught:
            act()
        assert caught.value.retry_after > 0
    assert monotonic() - began < 10
    database.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://user:hunter2@host/name", "nonsense hunter2", ""]
)
def test_another_kind_of_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


# SQLite


def test_writers_that_wait_share_one_commit_and_a_failing_one_fails_alone(sqlite: Database) -> None:
    busy, go_on = Event(), Event()
    transactions: list[Any] = []

    def hold(conn: Connection) -> None:
        busy.set()
        go_on.wait(10)

    def write(conn: Connection, name: str) -> str:
        transactions.append(conn.get_transaction())
        _put(conn, name)
        if name == "bad":
            raise KeyError(name)
        return name

    first = Thread(target=lambda: sqlite.write(hold))
    first.start()
    busy.wait(10)
    names = ["a", "bad", "b", "c"]
    waiting = [lambda name=name: sqlite.write(lambda conn: write(conn, name)) for name in names]
    outcomes: list[Any] = []
    second = Thread(target=lambda: outcomes.extend(_in_threads(*waiting)))
    second.start()
    while sqlite._writer._queue.qsize() < len(names):  # type: ignore[attr-defined]
        pass
    go_on.set()
    first.join()
    second.join()
    assert len({id(transaction) for transaction in transactions}) == 1
    assert [str(outcome) for outcome in outcomes] == ["a", "'bad'", "b", "c"]
    assert _names(sqlite) == {"a", "b", "c"}


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
        sqlite.write(lambda conn: _put(conn, "a"))
    assert _names(sqlite) == set()  # reading goes on
    patient = Database(f"sqlite:///{tmp_path}/penstock.db")
    outcomes = _in_threads(
        lambda: patient.write(lambda conn: _put(conn, "b")), lambda: other.execute("ROLLBACK")
    )
    assert outcomes[0] is None
    assert _names(sqlite) == {"b"}
    patient.close()
    other.close()


def test_a_full_disk_is_a_database_out_of_reach_and_nothing_is_half_written(sqlite: Database) -> None:
    sqlite.write(
        lambda conn: conn.exec_driver_sql("PRAGMA max_page_count=1").scalar()
    )  # as many as there are

    def fill(conn: Connection) -> None:
        _put(conn, "small")
        for number in range(100):
            _put(conn, f"n{number}", "x" * 10_000)

    with pytest.raises(DatabaseUnreachable, match="full"):
        sqlite.write(fill)
    assert _names(sqlite) == set()
    sqlite.write(lambda conn: conn.exec_driver_sql("PRAGMA max_page_count=1000000").scalar())
    sqlite.write(fill)
    assert len(_names(sqlite)) == 101


def test_a_write_inside_a_write_is_an_error_and_no_standstill(sqlite: Database) -> None:
    with pytest.raises(RuntimeError, match="inside a write"):
        sqlite.write(lambda conn: sqlite.write(lambda other: None))
    sqlite.write(lambda conn: _put(conn, "a"))
    assert _names(sqlite) == {"a"}


def test_a_closed_database_takes_nothing_more(sqlite: Database) -> None:
    sqlite.write(lambda conn: _put(conn, "a"))
    sqlite.close()
    with pytest.raises(DatabaseUnreachable):
        sqlite.write(lambda conn: _put(conn, "b"))


def test_a_forked_child_writes_by_a_thread_of_its_own(sqlite: Database) -> None:
    sqlite.write(lambda conn: _put(conn, "parent"))
    child = os.fork()
    if child == 0:
        try:
            sqlite.write(lambda conn: _put(conn, "child"))
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert _names(sqlite) == {"parent", "child"}


# PostgreSQL


def test_a_connection_that_died_in_the_pool_is_replaced_without_a_word(postgresql: Database) -> None:
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    outcomes = _in_threads(
        *[lambda: postgresql.read(lambda conn: conn.execute(text("SELECT pg_sleep(0.1)")))] * 3
    )
    assert not any(
        isinstance(outcome, Exception) for outcome in outcomes
    )  # three connections stand in the pool
    postgresql.read(lambda conn: conn.execute(kill))
    postgresql.write(lambda conn: _put(conn, "a"))
    postgresql.read(lambda conn: conn.execute(text("SELECT 1")))
    assert _names(postgresql) == {"a"}


def test_a_server_that_comes_back_is_used_again(make_postgres: Callable[[], PostgresServer]) -> None:
    server = make_postgres()
    database = Database(server.create_database(), limits=QUICK)
    database.write(learned.create)
    server.kill()
    for _ in range(2):
        with pytest.raises(DatabaseUnreachable):
            database.write(lambda conn: _put(conn, "lost"))
    server.restart()
    database.write(lambda conn: _put(conn, "a"))
    assert _names(database) == {"a"}
    database.close()


def test_a_server_that_stands_still_is_given_up(make_postgres: Callable[[], PostgresServer]) -> None:
    """Its kernel still takes connections and statements; nothing ever answers."""
    server = make_postgres()
    database = Database(server.create_database(), limits=QUICK)
    database.write(learned.create)
    processes = _family(server.pid)
    _signal(processes, signal.SIGSTOP)
    began = monotonic()
    try:
        with pytest.raises(DatabaseUnreachable):  # on the connection that stood, then on a new one
            database.write(lambda conn: _put(conn, "lost"))
        with pytest.raises(DatabaseUnreachable):
            database.ping()
    finally:
        _signal(processes, signal.SIGCONT)
    assert monotonic() - began < 15
    database.write(lambda conn: _put(conn, "a"))
    assert _names(database) == {"a"}
    database.close()


def test_a_statement_that_takes_too_long_counts_as_out_of_reach(postgresql: Database) -> None:
    with pytest.raises(DatabaseUnreachable, match="timeout"):
        postgresql.write(lambda conn: conn.execute(text("SELECT pg_sleep(20)")))


def test_who_finds_no_free_connection_is_told_within_the_limit(postgresql: Database) -> None:
    go_on = Event()
    ready = Barrier(4)

    def hold(conn: Connection) -> None:
        ready.wait(10)
        go_on.wait(10)

    holders = [Thread(target=lambda: postgresql.write(hold)) for _ in range(3)]
    for holder in holders:
        holder.start()
    ready.wait(10)
    with pytest.raises(DatabaseUnreachable):
        postgresql.write(lambda conn: _put(conn, "a"))
    go_on.set()
    for holder in holders:
        holder.join()


def test_of_two_transactions_in_each_others_way_both_are_carried_out(postgresql: Database) -> None:
    """One of them is undone by the server as deadlocked, and run again."""
    postgresql.write(lambda conn: (_put(conn, "a"), _put(conn, "b")))
    crossing = Barrier(2)
    tries: list[str] = []

    def touch(conn: Connection, first: str, second: str) -> None:
        tries.append(first)
        conn.execute(
            text(
                "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; SET LOCAL deadlock_timeout = 50"
            )
        )
        update = text("UPDATE learned SET updated_at = updated_at + 1 WHERE quota = :name")
        conn.execute(update, {"name": first})
        if len(tries) <= 2:
            crossing.wait(10)
        conn.execute(update, {"name": second})

    outcomes = _in_threads(
        lambda: postgresql.write(lambda conn: touch(conn, "a", "b")),
        lambda: postgresql.write(lambda conn: touch(conn, "b", "a")),
    )
    assert outcomes == [None, None]
    assert len(tries) == 3
    assert (
        postgresql.read(lambda conn: conn.execute(text("SELECT sum(updated_at) FROM learned")).scalar()) == 4
    )


def test_a_commit_whose_outcome_is_unknown_is_not_repeated(postgresql: Database) -> None:
    """The server ends the connection in the middle of the commit; running it again could do it twice."""
    postgresql.write(
        lambda conn: conn.exec_driver_sql(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END$$;"
            " CREATE CONSTRAINT TRIGGER die AFTER INSERT ON learned DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION die()"
        )
    )
    tries: list[int] = []

    def write(conn: Connection) -> None:
        tries.append(1)
        _put(conn, "a")

    with pytest.raises(DatabaseUnreachable):
        postgresql.write(write)
    assert tries == [1]


def test_a_server_that_only_reads_is_out_of_reach_for_writing(postgresql: Database) -> None:
    def write(conn: Connection) -> None:
        conn.execute(text("SET TRANSACTION READ ONLY"))
        _put(conn, "a")

    with pytest.raises(DatabaseUnreachable, match="read-only"):
        postgresql.write(write)


def _family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    return [pid, *map(int, children.read_text().split())]


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass
