"""Ends that nothing follows are recorded in one statement, to the same rows as by the longer way."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, update

from app.billing.domain.usage import UsageFilter
from app.billing.store.usage import report, usage_entry
from app.dispatching.store import lose
from app.execution.store.endings import end
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import AttemptEnd, Claimed, TokenUsage
from app.tasks.domain.task import Status
from app.tasks.store.tables import attempt, task, task_content
from app.tasks.store.transitions import cancel_task
from tests.tasks.rows import (
    NOW,
    add,
    add_batch,
    again,
    batch_of,
    failure,
    new_task,
    record,
    row_of,
    success,
    take,
)

Make = Callable[[Claimed], AttemptEnd]
ENDS: dict[str, Make] = {
    "success": success,
    "failure": failure,
    "success without usage": lambda claimed: success(claimed, usage=None, cost=None),
    "success at an unknown price": lambda claimed: success(claimed, cost=None),
    "success in another currency": lambda claimed: success(claimed, cost=CallCost(5, "CNY", 2, 1)),
    "success without a result": lambda claimed: success(claimed, result=None),
    "what no database takes as it is": lambda claimed: failure(claimed, error_message="a\x00b\ud800"),
    "simulated": lambda claimed: success(claimed, simulated=True, sent_at=NOW, first_byte_at=NOW + 0.5),
}


# SQLite, which is no trip away, has the longer way alone.
pytestmark = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize("name", ENDS)
def test_both_ways_leave_the_same_rows(database: Database, name: str) -> None:
    add(database, new_task("plain"), new_task("long"))
    claims = take(database, "task_plain", "task_long")
    (plain,) = record(database, ENDS[name](claims["task_plain"]))
    (long,) = database.write(lambda conn: end(conn, [ENDS[name](claims["task_long"])]))
    assert (plain.held, plain.status, plain.callbacks) == (long.held, long.status, long.callbacks)
    for table, key in ((task, "id"), (task_content, ""), (attempt, "task_id"), (usage_entry, "")):
        one, other = _rows(database, table)
        unlike = {column for column in one if one[column] != other[column]}
        assert unlike <= {"seq", key, "recorded_at"}, f"{table.name}: {unlike}"


def test_one_statement_is_all_that_is_asked(database: Database) -> None:
    add(database, *(new_task(name) for name in "abc"))
    claims = take(database, "task_a", "task_b", "task_c")
    asked = _asked(database, [success(one) for one in claims.values()])
    assert len(asked) == 1, asked
    assert {row_of(database, name).status for name in claims} == {"succeeded"}


def test_usage_of_one_heading_is_one_entry(database: Database) -> None:
    add(database, *(new_task(name) for name in "abc"), new_task("d", client_id="bob"))
    claims = take(database, "task_a", "task_b", "task_c", "task_d")
    record(database, *(success(one) for one in claims.values()))
    entries = _rows(database, usage_entry)
    assert sorted((one["client_id"], one["calls"], one["prompt_tokens"]) for one in entries) == [
        ("alice", 3, 21),
        ("bob", 1, 7),
    ]


def test_rows_that_do_not_stand_as_they_were_claimed_go_the_longer_way(database: Database) -> None:
    """One is cancelled meanwhile, one lost, one claimed by another since; the fourth is as it was."""
    add(database, *(new_task(name) for name in "abcd"))
    claims = take(database, "task_a", "task_b", "task_c", "task_d")
    database.write(lambda conn: cancel_task(conn, "alice", "task_a", NOW))
    database.write(
        lambda conn: conn.execute(
            update(task).where(task.c.id.in_(["task_b", "task_c"])).values(worker="w0", release=9)
        )
    )
    database.write(
        lambda conn: conn.execute(update(task).where(task.c.id == "task_b").values(worker="w1", release=1))
    )
    endings = [failure(claims["task_a"]), success(claims["task_b"]), *map(success, _others(claims))]
    found = record(database, *endings)
    assert [(one.held, one.status) for one in found] == [
        (True, Status.CANCELLED),
        (True, Status.SUCCEEDED),
        (False, None),
        (True, Status.SUCCEEDED),
    ]
    assert row_of(database, "task_a").status == "cancelled"
    assert row_of(database, "task_c").status == "running"


def test_a_success_that_a_lost_worker_brings_late_is_kept(database: Database) -> None:
    add(database, new_task("1"))
    claimed = take(database, "task_1")["task_1"]
    database.write(lambda conn: lose(conn, "w1", NOW + 40, 10))
    (recorded,) = record(database, success(claimed))
    assert (recorded.held, recorded.status) == (True, Status.SUCCEEDED)
    assert [one["outcome"] for one in _rows(database, attempt)] == ["succeeded"]


def test_what_was_recorded_before_is_told_so_and_counted_once(database: Database) -> None:
    add(database, new_task("1"))
    ending = success(take(database, "task_1")["task_1"])
    first, second = record(database, ending), record(database, ending, ending)
    assert [(one.held, one.status) for one in (*first, *second)] == [(True, Status.SUCCEEDED)] * 3
    (used,) = database.read(lambda conn: report(conn, UsageFilter("2000-01-01", "2100-01-01")))
    assert (used["tasks"], used["calls"]) == (1, 1)


def test_an_answer_beside_which_something_follows_goes_the_longer_way(database: Database) -> None:
    (name,) = add_batch(database, 1)
    add(database, new_task("told", callback_url="https://alice.example/"), new_task("again"))
    claims = take(database, name, "task_told", "task_again")
    found = record(database, success(claims[name]), success(claims["task_told"]), again(claims["task_again"]))
    assert [one.status for one in found] == [Status.SUCCEEDED, Status.SUCCEEDED, Status.QUEUED]
    assert found[1].callbacks
    assert batch_of(database).completed == 1


def test_ends_are_counted_for_the_meters_whichever_way_they_went(migrated_url: str) -> None:
    told: list[dict[str, int]] = []
    database = Database(migrated_url, ended=lambda ends: told.append(dict(ends)))
    add(database, new_task("1"), new_task("2", callback_url="https://alice.example/"))
    claims = take(database, "task_1", "task_2")
    record(database, success(claims["task_1"]))
    record(database, success(claims["task_2"], usage=TokenUsage(1, 1)))
    assert told == [{"succeeded": 1}, {"succeeded": 1}]
    database.close()


def _others(claims: dict[str, Claimed]) -> list[Claimed]:
    return [claims["task_c"], claims["task_d"]]


def _rows(database: Database, table: Any) -> list[dict[str, Any]]:
    found = select(table).order_by(table.c.seq)
    return database.read(lambda conn: [dict(row._mapping) for row in conn.execute(found)])


def _asked(database: Database, endings: Sequence[AttemptEnd]) -> list[str]:
    """The statements that recording these takes."""
    asked: list[str] = []

    def note(_conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    engines = [database._glances, database._readers]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    record(database, *endings)
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
    return asked
