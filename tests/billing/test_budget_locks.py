"""What is released for a budget locks as everybody does: batches, then tasks, then what was used of the budget."""

from __future__ import annotations

import time
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Connection, text

from app.access.domain.caller import ClientLimits
from app.platform.database import Database
from app.submission.admit import Admission
from app.tasks.store.locks import lock_batches
from app.tasks.store.transitions import cancel_batch
from tests.platform.transactions import in_threads
from tests.tasks.rows import NOW, add_batch, batch_of

LIMITS = ClientLimits(tokens_per_day=1_000_000, over_budget="wait")
BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0")


class Limits:
    """Everybody's."""

    def of(self, _client_id: str) -> ClientLimits:
        return LIMITS


def admission() -> Admission:
    nothing: Any = None
    limits: Any = Limits()
    return Admission(nothing, limits, nothing, {}, lambda *_: (0, "USD"))


def held(database: Database, name: str, size: int) -> list[str]:
    """A batch of which every task waits for the budget."""
    ids = add_batch(database, size, name, batch_size=2)
    waits = text("UPDATE task SET hold = 6, reserved_tokens = 100, reserved_at = NULL WHERE batch_id = :name")
    database.write(lambda conn: conn.execute(waits, {"name": name}))
    return ids


def holds(database: Database) -> list[int]:
    found = text("SELECT hold FROM task ORDER BY seq")
    return list(database.read(lambda conn: conn.execute(found).scalars()))


def release(database: Database) -> int:
    return database.write(lambda conn: admission().release(conn, "alice", NOW, 1000))


def test_tasks_are_released_into_the_places_of_their_batch(database: Database) -> None:
    held(database, "batch_1", 3)
    held(database, "batch_2", 1)
    assert release(database) == 4
    assert holds(database) == [0, 0, 2, 0]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_a_release_and_a_cancel_of_the_same_batch_wait_for_one_another(database: Database) -> None:
    """The cancel holds the batch when the release begins, and locks its tasks once the release waits."""
    held(database, "batch_1", 3)
    holding, runs = Event(), list[str]()  # who is undone by a deadlock runs again

    def cancel(conn: Connection) -> object:
        runs.append("cancel")
        lock_batches(conn, ["batch_1"])
        holding.set()
        _until_somebody_waits(database)
        return cancel_batch(conn, "alice", "batch_1", NOW)

    def let_go(conn: Connection) -> int:
        runs.append("release")
        return admission().release(conn, "alice", NOW, 1000)

    cancelled, released = in_threads(
        lambda: database.write(cancel), lambda: holding.wait(60) and database.write(let_go)
    )
    assert (len(cancelled), released) == (3, 0)
    assert batch_of(database).status == "cancelled"
    assert sorted(runs) == ["cancel", "release"]


def _until_somebody_waits(database: Database) -> None:
    for _ in range(600):
        if database.read(lambda conn: conn.execute(BLOCKED).scalar_one()):
            return
        time.sleep(0.05)
    raise AssertionError("the release never came to wait")
