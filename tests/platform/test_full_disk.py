"""A full disk is an outage: nothing is half stored, and what waited is recorded when there is room again."""

import pytest

from app.execution.store.endings import end
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.tasks.store.tables import attempt, task, task_content
from app.tasks.store.tasks import get_task
from tests.full_disk import full_disk
from tests.tasks.rows import add, new_task, success, take

LARGE = '{"messages":[{"role":"user","content":"' + "x" * 200_000 + '"}]}'


def count(database: Database, table: object) -> int:
    return len(database.read(lambda conn: conn.execute(table.select()).all()))  # type: ignore[attr-defined]


def test_what_cannot_be_stored_leaves_nothing_and_can_be_stored_later(database: Database) -> None:
    add(database, new_task("before"))
    with full_disk(database):
        for _ in range(3):
            with pytest.raises(DatabaseUnreachable):
                add(database, new_task("during", request=LARGE))
        assert (count(database, task), count(database, task_content)) == (1, 1)
        database.ping()
    add(database, new_task("during", request=LARGE))
    assert (count(database, task), count(database, task_content)) == (2, 2)


def test_the_end_of_a_call_that_finds_no_room_is_recorded_whole_when_there_is(database: Database) -> None:
    add(database, new_task("a"))
    (claimed,) = take(database, "task_a").values()
    ending = success(claimed, result=LARGE)
    with full_disk(database):
        for _ in range(3):
            with pytest.raises(DatabaseUnreachable):
                database.write(lambda conn: end(conn, [ending]))
        assert count(database, attempt) == 0
        row = database.read(lambda conn: get_task(conn, "alice", "task_a"))
        assert row is not None
        assert (row.status, row.result) == ("running", None)
    (recorded,) = database.write(lambda conn: end(conn, [ending]))
    assert recorded.held
    row = database.read(lambda conn: get_task(conn, "alice", "task_a"))
    assert row is not None
    assert (row.status, row.result) == ("succeeded", LARGE)
    assert count(database, attempt) == 1
