"""A repeat finds the task of its earlier try, also when the process that held it and the leader are dead."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest

from app.platform.database import Database
from app.submission import hold_connections
from app.submission.hold_connections import HoldConnections, WaitingCall, insert_calls
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
    assert connections.find("alice", "equal") is None  # one repeat, one task
    connections.close()


def test_a_task_whose_process_lives_is_left_to_it(database: Database) -> None:
    beat(database, "alive")
    held(database, "theirs", "alive")
    beats = count()

    class Beating(Hurrying):
        def monotonic(self) -> float:
            next(beats)
            beat(database, "alive")
            return super().monotonic()

    connections = HoldConnections(database, Beating(), look_every=0.001)
    assert connections.find("alice", "equal") is None
    assert next(beats) > 5
    connections.close()
