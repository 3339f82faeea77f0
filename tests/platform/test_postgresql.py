"""PostgreSQL: connections that die, servers that stand still, transactions in each other's way."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Event, Thread
from time import monotonic

import pytest
from sqlalchemy import Connection, text

from app.platform.database import Database, DatabaseTimeouts
from app.platform.domain.errors import DatabaseUnreachable
from app.tasks.store.tables import learned
from tests.platform.transactions import in_threads, put, stored
from tests.servers import PostgresServer
from tests.stack import wait_until


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    """With one table."""
    database = Database(postgresql_url, pool_size=3)
    database.write(learned.create)
    yield database
    database.close()


def test_a_connection_that_died_in_the_pool_is_replaced_without_a_word(postgresql: Database) -> None:
    kill = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    outcomes = in_threads(
        *[lambda: postgresql.read(lambda conn: conn.execute(text("SELECT pg_sleep(0.1)")))] * 3
    )
    assert not any(
        isinstance(outcome, Exception) for outcome in outcomes
    )  # three connections stand in the pool
    postgresql.read(lambda conn: conn.execute(kill))
    postgresql.write(lambda conn: put(conn, "a"))
    postgresql.read(lambda conn: conn.execute(text("SELECT 1")))
    assert stored(postgresql) == {"a"}


@pytest.mark.parametrize("way", ["write_single", "glance"])
def test_so_is_one_that_keeps_its_plans(postgresql: Database, way: str) -> None:
    """A single statement is its own transaction, and could not be repeated: it is not sent to find that out."""
    tries: list[int] = []

    def ask(conn: Connection) -> int:
        tries.append(1)
        return int(conn.execute(text("SELECT pg_backend_pid()")).scalar_one())

    first = getattr(postgresql, way)(ask)
    ended = "SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"
    postgresql.read(lambda conn: conn.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": first}))
    wait_until(lambda: postgresql.read(lambda c: c.execute(text(ended), {"pid": first}).scalar()) == 0)
    assert getattr(postgresql, way)(ask) != first
    assert tries == [1, 1]


def test_a_text_with_nul_is_found_nowhere_and_is_no_error(database: Database) -> None:
    question = text("SELECT 1 FROM task WHERE id = :name")
    assert database.read(lambda conn: conn.execute(question, {"name": "a\x00b"}).all()) == []


def test_a_server_that_comes_back_is_used_again(make_postgres: Callable[[], PostgresServer]) -> None:
    server = make_postgres()
    database = Database(server.create_database())
    database.write(learned.create)
    server.kill()
    for _ in range(2):
        with pytest.raises(DatabaseUnreachable):
            database.write(lambda conn: put(conn, "lost"))
    server.restart()
    database.write(lambda conn: put(conn, "a"))
    assert stored(database) == {"a"}
    database.close()


def test_a_server_that_stands_still_is_given_up(make_postgres: Callable[[], PostgresServer]) -> None:
    """Its kernel still takes connections and statements; nothing ever answers."""
    server = make_postgres()
    database = Database(server.create_database(), limits=DatabaseTimeouts(connect=2, answer=1.2))
    database.write(learned.create)
    processes = _family(server.pid)
    _signal(processes, signal.SIGSTOP)
    began = monotonic()
    try:
        with pytest.raises(DatabaseUnreachable):  # on the connection that stood, then on a new one
            database.write(lambda conn: put(conn, "lost"))
        with pytest.raises(DatabaseUnreachable):
            database.ping()
    finally:
        _signal(processes, signal.SIGCONT)
    assert monotonic() - began < 60
    database.write(lambda conn: put(conn, "a"))
    assert stored(database) == {"a"}
    database.close()


def test_a_statement_that_takes_too_long_counts_as_out_of_reach(postgresql_url: str) -> None:
    impatient = Database(postgresql_url, limits=DatabaseTimeouts(statement=0.5))
    with pytest.raises(DatabaseUnreachable, match="timeout"):
        impatient.write(lambda conn: conn.execute(text("SELECT pg_sleep(120)")))
    impatient.close()


def test_who_finds_no_free_connection_is_told_within_the_limit(postgresql_url: str) -> None:
    narrow = Database(
        postgresql_url, pool_size=6, limits=DatabaseTimeouts(checkout=0.5)
    )  # three of them for this
    go_on = Event()
    ready = Barrier(4)

    def hold(conn: Connection) -> None:
        ready.wait(60)
        go_on.wait(60)

    holders = [Thread(target=lambda: narrow.write(hold)) for _ in range(3)]
    for holder in holders:
        holder.start()
    ready.wait(60)
    with pytest.raises(DatabaseUnreachable):
        narrow.write(lambda conn: put(conn, "a"))
    go_on.set()
    for holder in holders:
        holder.join()
    narrow.close()


def test_of_two_transactions_in_each_others_way_both_are_carried_out(postgresql: Database) -> None:
    """One of them is undone by the server as deadlocked, and run again; more than once if it is unlucky."""
    postgresql.write(lambda conn: (put(conn, "a"), put(conn, "b")))
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
            crossing.wait(60)
        conn.execute(update, {"name": second})

    outcomes = in_threads(
        lambda: postgresql.write(lambda conn: touch(conn, "a", "b")),
        lambda: postgresql.write(lambda conn: touch(conn, "b", "a")),
    )
    assert outcomes == [None, None]
    assert 3 <= len(tries) <= 8  # four of each at the most
    assert (
        postgresql.read(lambda conn: conn.execute(text("SELECT sum(updated_at) FROM learned")).scalar()) == 4
    )


def test_who_is_undone_as_deadlocked_again_and_again_gets_through(postgresql: Database) -> None:
    tries: list[int] = []

    def write(conn: Connection) -> None:
        tries.append(1)
        put(conn, "a")
        if len(tries) <= 3:
            conn.exec_driver_sql("DO $$ BEGIN RAISE 'deadlock detected' USING ERRCODE = '40P01'; END $$")

    postgresql.write(write)
    assert len(tries) == 4
    assert postgresql.read(lambda conn: conn.execute(text("SELECT count(*) FROM learned")).scalar()) == 1


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
        put(conn, "a")

    with pytest.raises(DatabaseUnreachable):
        postgresql.write(write)
    assert tries == [1]


def test_nor_is_a_single_statement_that_was_cut_off(postgresql: Database) -> None:
    tries: list[int] = []

    def write(conn: Connection) -> None:
        tries.append(1)
        conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnreachable):
        postgresql.write_single(write)
    assert tries == [1]


def test_a_single_statement_stands_when_it_is_through(postgresql: Database) -> None:
    postgresql.write_single(lambda conn: put(conn, "a"))
    assert stored(postgresql) == {"a"}


def test_a_server_that_only_reads_is_out_of_reach_for_writing(postgresql: Database) -> None:
    def write(conn: Connection) -> None:
        conn.execute(text("SET TRANSACTION READ ONLY"))
        put(conn, "a")

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
