"""queued -> running, by one worker only."""

from threading import Barrier, Thread

import pytest
from sqlalchemy import update

from app.execution.store.claims import claim
from app.platform.database import Database
from app.tasks.domain.attempt import Claim
from app.tasks.domain.task import Hold
from app.tasks.store.tables import task
from app.tasks.store.transitions import cancel_task
from tests.tasks.rows import DAY, NOW, add, again, failure, new_task, permit, record, row_of, success, take


def test_a_claimed_row_says_who_runs_it_and_under_which_release(database: Database) -> None:
    add(database, new_task("1", callback_url="https://a.example/", metadata="{}", retry="patient"))
    claimed = take(database, "task_1", worker="w1", release=7, at=NOW + 3)["task_1"]
    row = row_of(database, "task_1")
    assert (row.status, row.worker, row.release, row.key) == ("running", "w1", 7, "main")
    assert (row.account, row.upstream_model) == ("acme", "deepseek-chat")
    assert (row.started_at, row.claimed_at, row.attempts) == (NOW + 3, NOW + 3, 1)
    assert claimed.permit == permit("task_1", 7)
    assert (claimed.worker, claimed.client_id, claimed.model) == ("w1", "alice", "deepseek-flash")
    assert (claimed.request, claimed.started_at) == ('{"messages":[]}', NOW + 3)
    assert (claimed.attempts, claimed.counted, claimed.lost, claimed.avoid) == (0, 0, 0, ())
    assert (claimed.retry, claimed.metadata) == ("patient", "{}")
    assert (claimed.callback_url, claimed.batch_id) == ("https://a.example/", None)
    assert (claimed.created_at, claimed.expires_at) == (NOW, NOW + DAY)


def test_a_running_row_is_not_claimed_again(database: Database) -> None:
    add(database, new_task("1"))
    take(database, "task_1", worker="w1", release=1)
    assert take(database, "task_1", worker="w2", release=2) == {}
    row = row_of(database, "task_1")
    assert (row.worker, row.release, row.attempts) == ("w1", 1, 1)


def test_of_two_claims_in_one_group_the_first_holds(database: Database) -> None:
    add(database, new_task("1"))
    claims = [Claim(permit("task_1", 5), "w1", NOW), Claim(permit("task_1", 6), "w1", NOW)]
    claimed = database.write(lambda conn: claim(conn, claims))
    assert claimed["task_1"].permit.release == 5
    assert row_of(database, "task_1").release == 5


def test_what_was_cancelled_is_left_out_and_the_rest_is_claimed(database: Database) -> None:
    add(database, new_task("1"), new_task("2"))
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    assert set(take(database, "task_1", "task_2", "task_unknown")) == {"task_2"}
    assert row_of(database, "task_1").status == "cancelled"


def test_what_has_ended_is_not_claimed(database: Database) -> None:
    add(database, new_task("1"), new_task("2"))
    claimed = take(database, "task_1", "task_2")
    record(database, success(claimed["task_1"]), failure(claimed["task_2"]))
    assert take(database, "task_1", "task_2", release=2) == {}


def test_a_row_past_its_deadline_is_not_claimed(database: Database) -> None:
    add(database, new_task("1", expires_at=NOW + 10))
    assert take(database, "task_1", at=NOW + 10) == {}
    assert set(take(database, "task_1", at=NOW + 9.9)) == {"task_1"}


@pytest.mark.parametrize("hold", [Hold.UNTIL, Hold.BATCH, Hold.PAUSED])
def test_a_row_that_is_held_back_is_not_claimed(database: Database, hold: Hold) -> None:
    """As when a message of an earlier feeding turns up."""
    add(database, new_task("1", hold=hold))
    assert take(database, "task_1") == {}


def test_a_later_attempt_knows_of_the_earlier_ones(database: Database) -> None:
    add(database, new_task("1"))
    first = take(database, "task_1", at=NOW)["task_1"]
    record(database, again(first, avoid=("main", "spare")))
    database.write(lambda conn: conn.execute(update(task).values(hold=0)))
    second = take(database, "task_1", release=2, at=NOW + 30)["task_1"]
    assert (second.attempts, second.counted, second.avoid) == (1, 1, ("main", "spare"))
    assert second.started_at == NOW + 30
    assert row_of(database, "task_1").started_at == NOW


def test_workers_that_race_for_the_same_rows_share_them_without_a_doubt(database: Database) -> None:
    """Each thread claims all rows, in an order of its own; every row has one owner, the one its row names."""
    ids = [f"task_{number}" for number in range(60)]
    add(database, *(new_task(str(number)) for number in range(60)))
    start = Barrier(4)
    owners: dict[str, list[str]] = {task_id: [] for task_id in ids}

    def work(number: int) -> None:
        order = ids[number * 15 :] + ids[: number * 15]
        start.wait()
        for group in range(0, 60, 20):
            wanted = order[group : group + 20][:: 1 if number % 2 else -1]
            for task_id in take(database, *wanted, worker=f"w{number}", release=number):
                owners[task_id].append(f"w{number}")

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {task_id: [row_of(database, task_id).worker] for task_id in ids} == owners
