"""A repeat finds the task of its earlier try, also when the process that held it and the leader are dead."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from sqlalchemy import select, update

from app.platform.database import Database
from app.submission import hold_connections
from app.submission.domain.request import read_patience
from app.submission.hold_connections import HoldConnections, WaitingCall, insert_calls
from app.tasks.store.tables import task, waiting_call
from tests.tasks.rows import NOW, add, new_task


@dataclass
class Hurrying:
    """Two seconds pass between any two looks at it."""

    at: float = 0.0

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        self.at += 2.0
        return self.at


def held(database: Database, name: str, holder: str) -> None:
    """A task whose request a process holds."""
    add(database, new_task(name))
    call = WaitingCall(f"task_{name}", "alice", "equal", f"connection of {name}", holder, NOW)
    database.write(lambda conn: insert_calls(conn, [call]))


def beat(database: Database, holder: str) -> None:
    database.write(lambda conn: hold_connections.beat(conn, holder, NOW))


@pytest.mark.parametrize("on_record", [True, False], ids=["silent", "gone"])
def test_a_task_whose_process_is_dead_is_taken_over_without_a_leader(
    database: Database, on_record: bool
) -> None:
    if on_record:
        beat(database, "dead")
    held(database, "mine", "dead")
    connections = HoldConnections(database, Hurrying(), look_every=0.001)
    found = connections.find("alice", "equal")
    assert found is not None
    assert (found.task_id, found.holder) == ("task_mine", connections.id)
    assert connections.find("alice", "equal") == found  # while that waits: one task, one bill
    connections.close()


def test_a_task_whose_process_lives_is_shared_with_it_at_last(database: Database) -> None:
    """Some proxies give a call up towards their client and keep their own connection to us."""
    beat(database, "alive")
    held(database, "theirs", "alive")
    beats = count()

    class Beating(Hurrying):
        def monotonic(self) -> float:
            next(beats)
            beat(database, "alive")
            return super().monotonic()

    connections = HoldConnections(database, Beating(), look_every=0.001)
    found = connections.find("alice", "equal")
    assert found is not None
    assert found.task_id == "task_theirs"
    assert next(beats) > 5
    connections.close()


def free(database: Database, name: str) -> None:
    database.write(
        lambda conn: hold_connections.free(conn, f"task_{name}", f"connection of {name}", NOW + 10)
    )


def row_of(database: Database, name: str) -> Any:
    found = select(waiting_call).where(waiting_call.c.task_id == f"task_{name}")
    return database.read(lambda conn: conn.execute(found).first())


def test_an_equal_request_takes_over_what_nobody_waits_for_and_nothing_else(database: Database) -> None:
    beat(database, "alive")
    held(database, "theirs", "alive")
    connections = HoldConnections(database, Hurrying())
    assert connections.find_freed("alice", "equal") is None
    free(database, "theirs")
    assert connections.find_freed("bob", "equal") is None
    assert connections.find_freed("alice", "other") is None
    found = connections.find_freed("alice", "equal")
    assert found is not None
    assert connections.find_freed("alice", "equal") is None
    connections.close()


def test_a_request_that_asks_for_it_joins_one_that_waits_or_runs(database: Database) -> None:
    connections = HoldConnections(database, Hurrying())
    assert connections.share("alice", "equal") is None
    first = connections.new_call("task_own", "alice", "equal")
    add(database, new_task("own"))
    database.write(lambda conn: insert_calls(conn, [first]))
    connections.hold(first)
    assert connections.share("alice", "equal") == first
    assert connections.share("bob", "equal") is None
    other_process = HoldConnections(database, Hurrying())
    taken = other_process.share("alice", "equal")
    assert taken is not None
    assert taken.task_id == "task_own"
    for each in (connections, other_process):
        each.close()


def test_a_shared_task_is_given_up_by_the_last_that_leaves(database: Database) -> None:
    connections = HoldConnections(database, Hurrying())
    first = connections.new_call("task_own", "alice", "equal")
    add(database, new_task("own"))
    database.write(lambda conn: insert_calls(conn, [first]))
    connections.hold(first)
    second = connections.share("alice", "equal")
    assert second is not None
    connections.let_go(first, repeats=True)
    assert row_of(database, "own").connection == first.connection
    connections.let_go(second, repeats=True)
    assert row_of(database, "own").connection is None
    connections.close()


def test_a_task_that_has_ended_is_not_shared(database: Database) -> None:
    beat(database, "alive")
    held(database, "theirs", "alive")
    ended = update(task).where(task.c.id == "task_theirs").values(status="succeeded", finished_at=NOW)
    database.write(lambda conn: conn.execute(ended))
    connections = HoldConnections(database, Hurrying())
    assert connections.share("alice", "equal") is None
    connections.close()


NODE = {"x-stainless-lang": "js", "x-stainless-retry-count": "0", "x-stainless-timeout": "600"}
PYTHON = {"x-stainless-lang": "python", "x-stainless-retry-count": "0"}
PROXY = {"x-forwarded-for": "10.0.0.1"}


@pytest.mark.parametrize(
    ("headers", "proxy_timeout", "seconds"),
    [
        ({}, 0.0, 295),
        (PYTHON, 0.0, 295),
        ({**PYTHON, "x-stainless-read-timeout": "600"}, 0.0, 595),
        ({**PYTHON, "x-stainless-read-timeout": "None"}, 0.0, 295),
        ({**PYTHON, "x-stainless-read-timeout": "2.0"}, 0.0, 1),
        (NODE, 0.0, 295),
        ({**NODE, "x-stainless-timeout": "30"}, 0.0, 25),
        (PROXY, 0.0, 55),
        ({"via": "1.1 proxy"}, 0.0, 55),
        ({"cf-ray": "8"}, 0.0, 55),
        (PROXY, 100.0, 95),
        (PROXY, 3600.0, 295),
        ({}, 100.0, 295),
        ({**PYTHON, "x-stainless-read-timeout": "600", **PROXY}, 0.0, 595),
        ({**PYTHON, "x-stainless-read-timeout": "600", **PROXY}, 100.0, 95),
        ({**NODE, **PROXY}, 0.0, 295),
    ],
)
def test_a_call_is_answered_before_whoever_waits_for_it_gives_up(
    headers: dict[str, str], proxy_timeout: float, seconds: float
) -> None:
    assert read_patience(headers.get, proxy_timeout).seconds == seconds
