"""Batches: what comes in, how they advance, how they end, and how they are read."""

import pytest

from app.dispatching.store import expire, lose
from app.platform.database import Database
from app.platform.domain.errors import Conflict
from app.tasks.domain.task import BatchStatus, Hold, Status
from app.tasks.store.batches import get_batch, list_batches, results, task_ids
from app.tasks.store.feeding import next_to_feed, promote_due, queues_to_feed
from app.tasks.store.progress import AT_ONCE
from app.tasks.store.submissions import (
    NewBatch,
    discard_intake,
    finish_intake,
    insert_batch,
    insert_tasks,
    stale_intakes,
)
from app.tasks.store.tables import batch, task, task_content
from app.tasks.store.tasks import list_tasks
from app.tasks.store.transitions import cancel_batch, cancel_task
from tests.tasks.rows import (
    DAY,
    NOW,
    add,
    add_batch,
    again,
    all_of,
    batch_of,
    failure,
    new_task,
    record,
    row_of,
    success,
    take,
    told,
    unsent,
)


def _holds(database: Database) -> list[int]:
    return [row.hold for row in all_of(database, task)]


def _free(database: Database) -> list[str]:
    return [row.id for row in all_of(database, task) if row.status == "queued" and row.hold == Hold.NONE]


# coming in


def test_nobody_sees_or_runs_a_batch_that_is_still_coming_in(database: Database) -> None:
    rows = [new_task(batch_id="batch_1", batch_index=index, hold=Hold.BATCH) for index in range(3)]
    database.write(lambda conn: insert_batch(conn, NewBatch("batch_1", "alice", NOW, NOW + DAY)))
    add(database, *rows)
    assert batch_of(database).status == "validating"
    assert database.read(queues_to_feed) == []
    assert take(database, rows[0].id) == {}
    assert database.read(lambda conn: list_tasks(conn, "alice")) == []
    assert database.read(lambda conn: list_tasks(conn, "alice", batch_id="batch_1")) == []


def test_a_batch_begins_with_its_whole_input(database: Database) -> None:
    ids = add_batch(database, 3)
    row = batch_of(database)
    assert (row.status, row.total, row.in_progress_at) == ("in_progress", 3, NOW)
    assert _free(database) == ids


def test_a_line_with_a_time_of_its_own_waits_for_it(database: Database) -> None:
    add_batch(database, 2, task={"available_at": NOW + 60})
    assert _holds(database) == [Hold.UNTIL, Hold.UNTIL]
    assert database.write(lambda conn: promote_due(conn, NOW + 60, 10)) == 2
    assert _holds(database) == [Hold.NONE, Hold.NONE]


def test_of_a_large_batch_the_rows_are_let_go_step_by_step(database: Database) -> None:
    add_batch(database, AT_ONCE + 30)
    assert len(_free(database)) == AT_ONCE
    assert [database.write(lambda conn: promote_due(conn, NOW, 20)) for _ in range(4)] == [20, 10, 0, 0]
    assert len(_free(database)) == AT_ONCE + 30
    assert not batch_of(database).sweeping


def test_an_empty_batch_is_completed_at_once(database: Database) -> None:
    add_batch(database, 0, callback_url="https://alice.example/")
    assert batch_of(database).status == "completed"
    assert told(database) == [("batch.completed", "batch_1")]


def test_a_batch_taken_back_meanwhile_cannot_begin(database: Database) -> None:
    with pytest.raises(Conflict):
        database.write(lambda conn: finish_intake(conn, "batch_1", 1, NOW))


def test_an_intake_is_taken_back_with_all_its_rows_some_at_a_time(database: Database) -> None:
    database.write(lambda conn: insert_batch(conn, NewBatch("batch_1", "alice", NOW, NOW + DAY)))
    add(database, *(new_task(batch_id="batch_1", batch_index=index, hold=Hold.BATCH) for index in range(5)))
    add(database, new_task("other"))
    assert [database.write(lambda conn: discard_intake(conn, "batch_1", 2)) for _ in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert [row.id for row in all_of(database, task)] == ["task_other"]
    assert len(all_of(database, task_content)) == 1
    assert all_of(database, batch) == []


def test_a_batch_that_has_begun_is_not_taken_back(database: Database) -> None:
    add_batch(database, 2)
    assert not database.write(lambda conn: discard_intake(conn, "batch_1", 10))
    assert batch_of(database).total == 2


def test_intakes_that_nobody_finished_are_found(database: Database) -> None:
    for name, at in (("batch_old", NOW), ("batch_new", NOW + 100)):
        database.write(
            lambda conn, name=name, at=at: insert_batch(conn, NewBatch(name, "alice", at, at + DAY))
        )
    add_batch(database, 1)
    assert database.read(lambda conn: stale_intakes(conn, NOW + 50, 10)) == ["batch_old"]


# batch_size


def test_only_so_many_of_a_batch_are_in_flight_at_once(database: Database) -> None:
    ids = add_batch(database, 4, batch_size=2)
    assert _free(database) == ids[:2]
    claims = take(database, *ids[:2])
    record(database, success(claims[ids[0]]))
    assert _free(database) == [ids[2]]
    record(database, failure(claims[ids[1]]))
    assert _free(database) == ids[2:]


def test_a_retry_keeps_its_place_in_flight(database: Database) -> None:
    ids = add_batch(database, 2, batch_size=1)
    record(database, again(take(database, ids[0])[ids[0]]))
    assert _free(database) == []
    record_nothing_more = database.write(lambda conn: promote_due(conn, NOW + 60, 10))
    assert record_nothing_more == 1
    assert _free(database) == [ids[0]]


def test_a_cancelled_task_that_was_in_flight_gives_its_place_to_the_next(database: Database) -> None:
    ids = add_batch(database, 3, batch_size=1)
    database.write(lambda conn: cancel_task(conn, "alice", ids[0], NOW))
    assert _free(database) == [ids[1]]


def test_a_cancelled_task_that_waited_for_a_place_gives_none(database: Database) -> None:
    ids = add_batch(database, 3, batch_size=1)
    database.write(lambda conn: cancel_task(conn, "alice", ids[1], NOW))
    assert _free(database) == [ids[0]]
    record(database, success(take(database, ids[0])[ids[0]]))
    assert _free(database) == [ids[2]]


def test_several_places_freed_at_once_are_all_given(database: Database) -> None:
    ids = add_batch(database, 10, batch_size=3)
    claims = take(database, *ids[:3])
    record(database, *(success(claims[name]) for name in ids[:3]))
    assert _free(database) == ids[3:6]


def test_expiry_and_lost_workers_free_places_too(database: Database) -> None:
    ids = add_batch(database, 4, batch_size=2, task={"expires_at": NOW + 10})
    take(database, ids[0])
    database.write(lambda conn: cancel_task(conn, "alice", ids[0], NOW))
    database.write(lambda conn: lose(conn, "w1", NOW + 5, 10))  # it was asked to cancel: so it ends here
    assert _free(database) == [ids[1], ids[2]]
    assert len(database.write(lambda conn: expire(conn, NOW + 10, 10))) == 3
    assert batch_of(database).status == "completed"


# ends


def test_a_batch_is_completed_with_its_last_task_and_told_once(database: Database) -> None:
    ids = add_batch(database, 3, callback_url="https://alice.example/")
    claims = take(database, *ids)
    record(database, success(claims[ids[0]]), failure(claims[ids[1]]))
    row = batch_of(database)
    assert (row.status, row.completed, row.failed, row.completed_at) == ("in_progress", 1, 1, None)
    (last,) = record(database, success(claims[ids[2]], NOW + 9))
    row = batch_of(database)
    assert (row.status, row.completed, row.failed) == ("completed", 2, 1)
    assert (row.finalizing_at, row.completed_at) == (NOW + 9, NOW + 9)
    assert told(database) == [("batch.completed", "batch_1")]
    assert len(last.callbacks) == 1


def test_a_tasks_own_callback_and_its_batchs_are_both_written(database: Database) -> None:
    (name,) = add_batch(
        database, 1, callback_url="https://a.example/b", task={"callback_url": "https://a.example/t"}
    )
    (recorded,) = record(database, success(take(database, name)[name]))
    assert told(database) == [("task.succeeded", name), ("batch.completed", "batch_1")]
    assert len(set(recorded.callbacks)) == 2


def test_a_batch_past_its_time_with_failures_is_expired(database: Database) -> None:
    ids = add_batch(
        database, 2, callback_url="https://a.example/", expires_at=NOW + 10, task={"expires_at": NOW + 10}
    )
    record(database, success(take(database, ids[0])[ids[0]]))
    assert database.write(lambda conn: expire(conn, NOW + 10, 10)) == [ids[1]]
    row = batch_of(database)
    assert (row.status, row.completed, row.failed, row.expired_at) == ("expired", 1, 1, NOW + 10)
    assert told(database) == [("batch.expired", "batch_1")]


def test_a_batch_all_of_which_succeeded_is_completed_even_late(database: Database) -> None:
    (name,) = add_batch(database, 1, expires_at=NOW + 10)
    record(database, success(take(database, name)[name], NOW + 11))
    assert batch_of(database).status == "completed"


def test_one_group_of_endings_advances_several_batches(database: Database) -> None:
    first, second = add_batch(database, 2, "batch_1"), add_batch(database, 2, "batch_2")
    claims = take(database, *first, *second)
    record(database, *(success(claims[name]) for name in (second[0], first[0], first[1])))
    assert (batch_of(database, "batch_1").status, batch_of(database, "batch_2").status) == (
        "completed",
        "in_progress",
    )
    assert batch_of(database, "batch_2").completed == 1


def test_going_back_to_the_queue_counts_for_nothing(database: Database) -> None:
    ids = add_batch(database, 2)
    claims = take(database, *ids)
    record(database, again(claims[ids[0]]), unsent(claims[ids[1]]))
    row = batch_of(database)
    assert (row.status, row.completed, row.failed, row.cancelled) == ("in_progress", 0, 0, 0)


# cancelling


def test_cancelling_a_batch_ends_what_waits_and_asks_what_runs(database: Database) -> None:
    ids = add_batch(database, 4, batch_size=2, callback_url="https://a.example/")
    claims = take(database, ids[0])
    ended = database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW + 1))
    assert sorted(ended or ()) == sorted(ids[1:])
    row = batch_of(database)
    assert (row.status, row.cancelled, row.cancelling_at, row.cancelled_at) == (
        "cancelling",
        3,
        NOW + 1,
        None,
    )
    assert row_of(database, ids[0]).cancel_requested
    assert told(database) == []
    record(database, failure(claims[ids[0]], NOW + 5))
    row = batch_of(database)
    assert (row.status, row.cancelled, row.cancelled_at) == ("cancelled", 4, NOW + 5)
    assert told(database) == [("batch.cancelled", "batch_1")]


def test_a_success_that_still_comes_counts_in_a_cancelled_batch(database: Database) -> None:
    ids = add_batch(database, 2)
    claims = take(database, ids[0])
    database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW))
    record(database, success(claims[ids[0]]))
    row = batch_of(database)
    assert (row.status, row.completed, row.cancelled) == ("cancelled", 1, 1)


def test_a_batch_with_nothing_running_is_cancelled_at_once(database: Database) -> None:
    add_batch(database, 3, task={"callback_url": "https://a.example/"})
    database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW))
    assert batch_of(database).status == "cancelled"
    assert [kind for kind, _ in told(database)] == ["task.cancelled"] * 3


def test_cancelling_again_is_harmless(database: Database) -> None:
    ids = add_batch(database, 2)
    take(database, ids[0])
    database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW))
    assert database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW + 5)) == []
    row = batch_of(database)
    assert (row.status, row.cancelling_at) == ("cancelling", NOW)


def test_a_batch_that_has_ended_is_not_cancelled(database: Database) -> None:
    (name,) = add_batch(database, 1)
    record(database, success(take(database, name)[name]))
    assert database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW)) == []
    assert batch_of(database).status == "completed"


def test_a_stranger_cannot_cancel_a_batch(database: Database) -> None:
    add_batch(database, 2)
    assert database.write(lambda conn: cancel_batch(conn, "stranger", "batch_1", NOW)) is None
    assert database.write(lambda conn: cancel_batch(conn, "alice", "batch_9", NOW)) is None
    assert batch_of(database).status == "in_progress"


def test_a_batch_cancelled_while_it_comes_in_never_runs(database: Database) -> None:
    rows = [new_task(batch_id="batch_1", batch_index=index, hold=Hold.BATCH) for index in range(4)]
    database.write(lambda conn: insert_batch(conn, NewBatch("batch_1", "alice", NOW, NOW + DAY)))
    add(database, *rows[:2])
    database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW))
    database.write(lambda conn: (insert_tasks(conn, rows[2:]), finish_intake(conn, "batch_1", 4, NOW + 1)))
    database.write(lambda conn: promote_due(conn, NOW + 1, 100))
    row = batch_of(database)
    assert (row.status, row.total, row.cancelled) == ("cancelled", 4, 4)
    assert {row.status for row in all_of(database, task)} == {"cancelled"}


def test_ten_thousand_waiting_tasks_are_cancelled_in_one_go(database: Database) -> None:
    add_batch(database, 10_000, task={"callback_url": "https://a.example/"})
    ended = database.write(lambda conn: cancel_batch(conn, "alice", "batch_1", NOW))
    assert len(set(ended or ())) == 10_000
    row = batch_of(database)
    assert (row.status, row.cancelled) == ("cancelled", 10_000)
    assert len(told(database)) == 10_000
    assert database.read(queues_to_feed) == []


# reading


def test_a_batch_is_read_by_its_client_alone(database: Database) -> None:
    add_batch(database, 2, callback_url="https://a.example/", metadata='{"a":1}')
    row = database.read(lambda conn: get_batch(conn, "alice", "batch_1"))
    assert row is not None
    assert (row.status, row.total, row.metadata) == (BatchStatus.IN_PROGRESS, 2, '{"a":1}')
    assert row.callback_status is None
    assert database.read(lambda conn: get_batch(conn, "stranger", "batch_1")) is None
    assert database.read(lambda conn: get_batch(conn, None, "batch_1")) == row


def test_the_state_of_a_batchs_own_callback_is_told_not_that_of_its_tasks(database: Database) -> None:
    ids = add_batch(
        database, 2, callback_url="https://a.example/", task={"callback_url": "https://a.example/t"}
    )
    claims = take(database, *ids)
    record(database, success(claims[ids[0]]))
    read = lambda: database.read(lambda conn: get_batch(conn, "alice", "batch_1"))  # noqa: E731
    assert read().callback_status is None
    record(database, success(claims[ids[1]]))
    assert read().callback_status == "pending"


def test_batches_are_listed_newest_first_page_by_page(database: Database) -> None:
    for name in ("batch_1", "batch_2", "batch_3"):
        add_batch(database, 1, name)
    add_batch(database, 1, "batch_4", client_id="stranger", task={"client_id": "stranger"})
    page = database.read(lambda conn: list_batches(conn, "alice", limit=2))
    assert [row.id for row in page] == ["batch_3", "batch_2"]
    page = database.read(lambda conn: list_batches(conn, "alice", page[-1].seq))
    assert [row.id for row in page] == ["batch_1"]


def test_results_come_in_the_order_of_the_input_as_far_as_they_have_ended(database: Database) -> None:
    ids = add_batch(database, 4, task={"custom_id": "line"})
    claims = take(database, *ids)
    record(database, success(claims[ids[3]]), failure(claims[ids[0]]), again(claims[ids[1]]))
    lines = database.read(lambda conn: results(conn, "batch_1", -1, 10))
    assert [(line.batch_index, line.task_id, line.status) for line in lines] == [
        (0, ids[0], Status.FAILED),
        (3, ids[3], Status.SUCCEEDED),
    ]
    assert (lines[0].error_code, lines[0].result, lines[0].custom_id) == ("bad_thing", None, "line")
    assert (lines[1].error_code, lines[1].result) == (None, '{"choices":[]}')
    assert database.read(lambda conn: results(conn, "batch_1", 0, 1)) == lines[1:]
    assert database.read(lambda conn: task_ids(conn, "batch_1", 2)) == ids[:2]


def test_what_is_let_go_is_fed_in_the_order_of_the_input(database: Database) -> None:
    ids = add_batch(database, 5)
    messages = database.read(lambda conn: next_to_feed(conn, "backlog.deepseek-flash.alice", 3))
    assert [message.task_id for message in messages] == ids[:3]
