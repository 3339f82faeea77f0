"""What the reconciler reads and puts right."""

import pytest

from app.dispatching.store import RunningRow, expire, fed_page, lose, releases_of, running_rows
from app.platform.database import Database
from app.tasks.domain.task import Hold, Status
from app.tasks.store.transitions import cancel_by_id, cancel_task
from tests.tasks.rows import (
    NOW,
    add,
    add_batch,
    attempts,
    batch_of,
    new_task,
    record,
    row_of,
    success,
    take,
    told,
)


def _lose(database: Database, worker: str = "w1", limit: int = 10) -> list[RunningRow]:
    return database.write(lambda conn: lose(conn, worker, NOW + 40, limit))


def test_fed_rows_are_paged_through_in_the_order_of_their_feeding(database: Database) -> None:
    seqs = add(database, *(new_task(f"{n}", fed_at=NOW + n // 2) for n in range(5)), new_task("unfed"))
    page = database.read(lambda conn: fed_page(conn, (0.0, 0), NOW + 10, 3))
    assert [(row.task_id, row.seq, row.fed_at) for row in page] == [
        ("task_0", seqs[0], NOW),
        ("task_1", seqs[1], NOW),
        ("task_2", seqs[2], NOW + 1),
    ]
    after = (page[-1].fed_at, page[-1].seq)
    page = database.read(lambda conn: fed_page(conn, after, NOW + 10, 3))
    assert [row.task_id for row in page] == ["task_3", "task_4"]


def test_rows_fed_after_the_instant_are_not_looked_at_yet(database: Database) -> None:
    add(database, new_task("1", fed_at=NOW), new_task("2", fed_at=NOW + 5))
    page = database.read(lambda conn: fed_page(conn, (0.0, 0), NOW + 4, 10))
    assert [row.task_id for row in page] == ["task_1"]


def test_running_rows_say_what_a_permit_is_rebuilt_from(database: Database) -> None:
    add(database, new_task("1"), new_task("2"))
    take(database, "task_1", worker="w1", release=7, at=NOW + 3)
    (row,) = database.read(running_rows)
    assert row == RunningRow("task_1", "w1", 7, "main", "acme", "deepseek-chat", 100, NOW + 3)


def test_releases_are_told_with_the_status(database: Database) -> None:
    add(database, new_task("1"), new_task("2"), new_task("3"))
    claims = take(database, "task_1", "task_3", release=4)
    record(database, success(claims["task_3"]))
    found = database.read(lambda conn: releases_of(conn, ["task_1", "task_2", "task_3", "task_9"]))
    assert found == {
        "task_1": (Status.RUNNING, 4),
        "task_2": (Status.QUEUED, None),
        "task_3": (Status.SUCCEEDED, 4),
    }


def test_queued_tasks_past_their_deadline_expire_and_are_told(database: Database) -> None:
    add(
        database,
        new_task("1", expires_at=NOW + 5, callback_url="https://a.example/"),
        new_task("2", expires_at=NOW + 6),
        new_task("held", expires_at=NOW + 4, hold=Hold.UNTIL),
        new_task("fed", expires_at=NOW + 5, fed_at=NOW),
    )
    assert sorted(database.write(lambda conn: expire(conn, NOW + 5, 10))) == [
        "task_1",
        "task_fed",
        "task_held",
    ]
    row = row_of(database, "task_1")
    assert (row.status, row.finished_at, row.error_code) == ("expired", NOW + 5, "expired")
    assert row_of(database, "task_2").status == "queued"
    assert told(database) == [("task.expired", "task_1")]


def test_running_tasks_past_their_deadline_are_left_to_their_worker(database: Database) -> None:
    add(database, new_task("1", expires_at=NOW + 5))
    take(database, "task_1")
    assert database.write(lambda conn: expire(conn, NOW + 10, 10)) == []
    assert row_of(database, "task_1").status == "running"


def test_the_longest_overdue_expire_first(database: Database) -> None:
    add(database, *(new_task(f"{n}", expires_at=NOW + n) for n in (3, 1, 2)))
    assert sorted(database.write(lambda conn: expire(conn, NOW + 9, 2))) == ["task_1", "task_2"]
    assert database.write(lambda conn: expire(conn, NOW + 9, 2)) == ["task_3"]
    assert database.write(lambda conn: expire(conn, NOW + 9, 2)) == []


def test_a_lost_workers_rows_go_back_to_the_front(database: Database) -> None:
    add(database, new_task("1", fed_at=NOW), new_task("2"))
    take(database, "task_1", worker="w1", release=3, at=NOW + 2)
    take(database, "task_2", worker="w2")
    assert _lose(database) == [RunningRow("task_1", "w1", 3, "main", "acme", "deepseek-chat", 100, NOW + 2)]
    row = row_of(database, "task_1")
    assert (row.status, row.hold, row.front, row.fed_at, row.lost) == ("queued", 0, True, None, 1)
    assert (row.worker, row.release) == ("w1", 3)  # whose success may still come
    (attempt,) = attempts(database, "task_1")
    assert (attempt.outcome, attempt.counted, attempt.worker, attempt.release) == ("lost", False, "w1", 3)
    assert (attempt.started_at, attempt.finished_at) == (NOW + 2, NOW + 40)
    assert row_of(database, "task_2").status == "running"
    assert _lose(database) == []


def test_a_lost_row_runs_again_elsewhere(database: Database) -> None:
    add(database, new_task("1"))
    take(database, "task_1", worker="w1")
    _lose(database)
    claimed = take(database, "task_1", worker="w2", release=2)["task_1"]
    assert (claimed.lost, claimed.attempts) == (1, 1)
    record(database, success(claimed))
    assert [attempt.outcome for attempt in attempts(database, "task_1")] == ["lost", "succeeded"]
    assert row_of(database, "task_1").attempts == 2


def test_a_task_that_took_three_workers_with_it_fails(database: Database) -> None:
    add(database, new_task("1", callback_url="https://a.example/"))
    for number in range(3):
        take(database, "task_1", worker=f"w{number}", release=number)
        assert len(_lose(database, f"w{number}")) == 1
    row = row_of(database, "task_1")
    assert (row.status, row.error_code, row.finished_at) == ("failed", "worker_lost", NOW + 40)
    assert len(attempts(database, "task_1")) == 3
    assert told(database) == [("task.failed", "task_1")]


def test_a_lost_task_that_was_asked_to_cancel_is_cancelled(database: Database) -> None:
    ids = add_batch(database, 1)
    take(database, ids[0])
    database.write(lambda conn: cancel_task(conn, "alice", ids[0], NOW))
    _lose(database)
    assert row_of(database, ids[0]).status == "cancelled"
    assert batch_of(database).cancelled == 1


def test_many_lost_rows_are_taken_in_parts(database: Database) -> None:
    add(database, *(new_task(f"{n}") for n in range(5)))
    take(database, *(f"task_{n}" for n in range(5)))
    assert [len(_lose(database, limit=2)) for _ in range(4)] == [2, 2, 1, 0]


# single cancels


@pytest.mark.parametrize("hold", list(Hold))
def test_a_waiting_task_is_cancelled_at_once(database: Database, hold: Hold) -> None:
    add(database, new_task("1", hold=hold, callback_url="https://a.example/"))
    assert database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW + 1)) is Status.CANCELLED
    row = row_of(database, "task_1")
    assert (row.status, row.finished_at) == ("cancelled", NOW + 1)
    assert told(database) == [("task.cancelled", "task_1")]


def test_a_running_task_is_asked_to_end(database: Database) -> None:
    add(database, new_task("1"))
    take(database, "task_1")
    assert database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW)) is Status.RUNNING
    row = row_of(database, "task_1")
    assert (row.status, row.cancel_requested) == ("running", True)
    assert told(database) == []


def test_a_task_that_has_ended_is_left_as_it_is(database: Database) -> None:
    add(database, new_task("1"))
    record(database, success(take(database, "task_1")["task_1"]))
    assert database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW)) is Status.SUCCEEDED
    assert row_of(database, "task_1").status == "succeeded"


def test_a_stranger_cannot_cancel_a_task_but_a_revoke_can(database: Database) -> None:
    add(database, new_task("1"))
    assert database.write(lambda conn: cancel_task(conn, "stranger", "task_1", NOW)) is None
    assert row_of(database, "task_1").status == "queued"
    assert database.write(lambda conn: cancel_by_id(conn, "task_1", NOW)) is Status.CANCELLED
    assert database.write(lambda conn: cancel_by_id(conn, "task_9", NOW)) is None
