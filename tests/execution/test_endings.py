"""running -> an end or back to queued, recorded once."""

from typing import Any

import pytest
from sqlalchemy import update

from app.billing.domain.usage import UsageFilter
from app.billing.store.usage import report
from app.dispatching.store import lose
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import Claimed, Outcome, Recorded, TaskFailure, TokenUsage, told_note
from app.tasks.domain.task import Status
from app.tasks.store.tables import task
from app.tasks.store.transitions import cancel_task
from app.tasks.views import task_view
from tests.tasks.rows import (
    NOW,
    add,
    again,
    attempts,
    failure,
    new_task,
    permit,
    record,
    row_of,
    success,
    take,
    told,
    unsent,
)


@pytest.fixture
def claimed(database: Database) -> Claimed:
    """Task 1, which wants a callback, in the hands of w1 under release 1."""
    add(database, new_task("1", callback_url="https://alice.example/"))
    return take(database, "task_1")["task_1"]


def test_a_success_is_recorded_with_result_usage_and_attempt(database: Database, claimed: Claimed) -> None:
    ending = success(claimed, result='{"x":"\\u0000 你好"}', simulated=True, first_byte_at=NOW + 0.5)
    (recorded,) = record(database, ending)
    assert (recorded.held, recorded.status) == (True, Status.SUCCEEDED)
    row = row_of(database, "task_1")
    assert (row.status, row.result, row.finished_at) == ("succeeded", '{"x":"\\u0000 你好"}', NOW + 1)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens) == (7, 5, 2, 1)
    assert (row.cost_picos, row.currency, row.simulated) == (12, "USD", True)
    assert (row.attempts, row.counted, row.error_code) == (1, 1, None)
    (attempt,) = attempts(database, "task_1")
    assert (attempt.outcome, attempt.status_code, attempt.key) == ("succeeded", 200, "main")
    assert (attempt.released_at, attempt.started_at, attempt.first_byte_at) == (NOW, NOW, NOW + 0.5)
    assert (attempt.finished_at, attempt.prompt_tokens, attempt.cost_picos) == (NOW + 1, 7, 12)


def test_a_failure_is_recorded_with_its_error_and_no_result(database: Database, claimed: Claimed) -> None:
    (recorded,) = record(database, failure(claimed, result="{}"))
    assert recorded.status is Status.FAILED
    row = row_of(database, "task_1")
    assert (row.status, row.result) == ("failed", None)
    assert (row.error_type, row.error_code) == ("invalid_request_error", "bad_thing")
    assert (row.error_message, row.prompt_tokens, row.cost_picos) == ("it was bad", None, None)


def test_an_end_is_told_by_one_callback(database: Database, claimed: Claimed) -> None:
    (recorded,) = record(database, success(claimed))
    assert told(database) == [("task.succeeded", "task_1")]
    assert len(recorded.callbacks) == 1


def test_an_end_without_a_callback_url_is_not_told(database: Database) -> None:
    add(database, new_task("2"))
    (recorded,) = record(database, success(take(database, "task_2")["task_2"]))
    assert (recorded.callbacks, told(database)) == ((), [])


def test_a_retry_goes_back_to_wait_for_its_time_at_the_front(database: Database, claimed: Claimed) -> None:
    (recorded,) = record(database, again(claimed, avoid=("main",), cost=CallCost(3, "USD")))
    assert (recorded.held, recorded.status, recorded.callbacks) == (True, Status.QUEUED, ())
    row = row_of(database, "task_1")
    assert (row.status, row.hold, row.front, row.fed_at) == ("queued", 1, True, None)
    assert (row.available_at, row.avoid) == (NOW + 11, '["main"]')
    assert (row.worker, row.release, row.key, row.claimed_at) == (None, None, None, None)
    assert (row.attempts, row.counted, row.cost_picos, row.finished_at) == (1, 1, 3, None)
    (attempt,) = attempts(database, "task_1")
    assert (attempt.outcome, attempt.counted, attempt.error_message) == ("unavailable", True, "oops")


def test_a_retry_without_a_time_may_run_at_once(database: Database, claimed: Claimed) -> None:
    record(database, again(claimed, available_at=None, counts=False))
    row = row_of(database, "task_1")
    assert (row.hold, row.available_at, row.counted) == (0, NOW, 0)


def test_what_was_never_sent_goes_back_as_if_nothing_had_been(database: Database, claimed: Claimed) -> None:
    record(database, unsent(claimed))
    row = row_of(database, "task_1")
    assert (row.status, row.hold, row.front, row.attempts) == ("queued", 0, True, 0)
    assert (row.worker, row.release, row.started_at) == (None, None, None)
    assert attempts(database, "task_1") == []


def test_giving_back_unsent_keeps_what_earlier_attempts_left(database: Database, claimed: Claimed) -> None:
    record(database, again(claimed, avoid=("main",)))
    database.write(lambda conn: conn.execute(update(task).values(hold=0)))
    record(database, unsent(take(database, "task_1", release=2)["task_1"]))
    row = row_of(database, "task_1")
    assert (row.attempts, row.counted, row.avoid, row.started_at) == (1, 1, '["main"]', NOW)


def test_costs_of_all_attempts_add_up(database: Database, claimed: Claimed) -> None:
    record(database, again(claimed, cost=CallCost(5, "USD"), available_at=None))
    record(database, success(take(database, "task_1", release=2)["task_1"], cost=CallCost(7, "USD")))
    assert row_of(database, "task_1").cost_picos == 12


@pytest.mark.parametrize("other", [{"cost": CallCost(7, "CNY")}, {"cost": None}])
def test_costs_in_two_currencies_or_at_an_unknown_price_have_no_sum(
    database: Database, claimed: Claimed, other: dict[str, Any]
) -> None:
    record(database, again(claimed, cost=CallCost(5, "USD"), available_at=None))
    record(
        database,
        again(
            take(database, "task_1", release=2)["task_1"], usage=TokenUsage(1, 1), available_at=None, **other
        ),
    )
    record(database, success(take(database, "task_1", release=3)["task_1"], cost=CallCost(7, "USD")))
    assert row_of(database, "task_1").cost_picos is None
    assert [row.cost_picos for row in attempts(database, "task_1")] == [5, 7 if other["cost"] else None, 7]


def test_a_refused_attempt_leaves_the_sum_as_it_is(database: Database, claimed: Claimed) -> None:
    record(database, again(claimed, available_at=None))
    record(database, success(take(database, "task_1", release=2)["task_1"], cost=CallCost(7, "USD")))
    row = row_of(database, "task_1")
    assert (row.cost_picos, row.currency) == (7, "USD")


def test_an_unknown_cost_stays_unknown(database: Database, claimed: Claimed) -> None:
    record(database, success(claimed, cost=None, usage=None))
    row = row_of(database, "task_1")
    assert (row.cost_picos, row.currency, row.prompt_tokens) == (None, None, None)


def test_a_second_ending_of_the_same_attempt_changes_nothing(database: Database, claimed: Claimed) -> None:
    record(database, success(claimed))
    (late,) = record(database, failure(claimed))
    assert row_of(database, "task_1").status == "succeeded"
    assert len(attempts(database, "task_1")) == 1
    assert len(told(database)) == 1
    assert late.held  # it was recorded already: as what, the status says
    assert late.status is Status.SUCCEEDED


def test_an_ending_repeated_after_a_doubtful_commit_is_told_that_it_stands(
    database: Database, claimed: Claimed
) -> None:
    record(database, again(claimed))
    (repeated,) = record(database, again(claimed))
    assert repeated == Recorded("task_1", True, Status.QUEUED)
    assert row_of(database, "task_1").attempts == 1
    assert len(attempts(database, "task_1")) == 1


def test_of_two_endings_for_one_row_in_one_group_the_first_holds(
    database: Database, claimed: Claimed
) -> None:
    first, second = record(database, success(claimed), failure(claimed))
    assert (first.held, first.status) == (True, Status.SUCCEEDED)
    assert second.status is Status.SUCCEEDED
    assert len(attempts(database, "task_1")) == 1


@pytest.mark.parametrize("make", [success, failure, again, unsent])
def test_an_ending_of_a_row_that_somebody_else_runs_is_refused(
    database: Database, claimed: Claimed, make
) -> None:
    database.write(lambda conn: lose(conn, "w1", NOW + 40, 10))
    take(database, "task_1", worker="w2", release=2, at=NOW + 50)
    (recorded,) = record(database, make(claimed, NOW + 60))
    assert recorded == Recorded("task_1", False)
    row = row_of(database, "task_1")
    assert (row.status, row.worker, row.release) == ("running", "w2", 2)
    assert [attempt.outcome for attempt in attempts(database, "task_1")] == ["lost"]
    assert told(database) == []


def test_an_ending_under_another_release_of_the_same_worker_is_refused(
    database: Database, claimed: Claimed
) -> None:
    record(database, again(claimed, available_at=None))
    take(database, "task_1", worker="w1", release=2)
    (recorded,) = record(database, failure(claimed))
    assert row_of(database, "task_1").status == "running"
    assert recorded.status is Status.QUEUED  # as what release 1 was recorded


def test_a_success_after_its_worker_was_thought_lost_is_accepted(
    database: Database, claimed: Claimed
) -> None:
    database.write(lambda conn: lose(conn, "w1", NOW + 40, 10))
    (recorded,) = record(database, success(claimed, NOW + 50))
    assert (recorded.held, recorded.status) == (True, Status.SUCCEEDED)
    assert row_of(database, "task_1").status == "succeeded"
    (attempt,) = attempts(database, "task_1")
    assert attempt.outcome == "succeeded"
    assert told(database) == [("task.succeeded", "task_1")]


@pytest.mark.parametrize("make", [failure, again, unsent])
def test_anything_else_than_success_comes_too_late_then(database: Database, claimed: Claimed, make) -> None:
    database.write(lambda conn: lose(conn, "w1", NOW + 40, 10))
    (recorded,) = record(database, make(claimed, NOW + 50))
    assert not recorded.held
    row = row_of(database, "task_1")
    assert (row.status, row.lost, row.hold, row.front) == ("queued", 1, 0, True)


def test_a_late_success_of_a_cancelled_task_is_not_accepted(database: Database, claimed: Claimed) -> None:
    database.write(lambda conn: lose(conn, "w1", NOW + 40, 10))
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW + 45))
    (recorded,) = record(database, success(claimed, NOW + 50))
    assert not recorded.held
    assert row_of(database, "task_1").status == "cancelled"


def test_a_success_after_a_requested_cancel_is_kept(database: Database, claimed: Claimed) -> None:
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    (recorded,) = record(database, success(claimed))
    assert recorded.status is Status.SUCCEEDED
    assert row_of(database, "task_1").result is not None


@pytest.mark.parametrize("make", [failure, again, unsent])
def test_anything_else_after_a_requested_cancel_is_cancelled(
    database: Database, claimed: Claimed, make
) -> None:
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    (recorded,) = record(database, make(claimed))
    assert (recorded.held, recorded.status) == (True, Status.CANCELLED)
    row = row_of(database, "task_1")
    assert (row.status, row.error_code, row.finished_at) == ("cancelled", None, NOW + 1)
    assert told(database) == [("task.cancelled", "task_1")]


def test_a_running_task_may_end_expired(database: Database, claimed: Claimed) -> None:
    record(database, failure(claimed, outcome=Outcome.TIMED_OUT, status=Status.EXPIRED))
    assert row_of(database, "task_1").status == "expired"
    assert told(database) == [("task.expired", "task_1")]


def test_an_unsent_attempt_may_end_its_task(database: Database, claimed: Claimed) -> None:
    record(database, failure(claimed, called=False, failure=TaskFailure("server_error", "no_route", "gone")))
    row = row_of(database, "task_1")
    assert (row.status, row.attempts, row.error_code) == ("failed", 0, "no_route")
    assert attempts(database, "task_1") == []


def test_an_unknown_task_is_not_held(database: Database) -> None:
    add(database, new_task("2"))
    other = take(database, "task_2")["task_2"]
    from dataclasses import replace

    (recorded,) = record(database, success(replace(other, permit=permit("task_9"))))
    assert recorded == Recorded("task_9", False)


def test_what_no_database_can_store_in_a_text_is_replaced(database: Database, claimed: Claimed) -> None:
    told_so = "nul \x00, half a pair \ud83d"
    ending = failure(claimed, error_message=told_so, failure=TaskFailure("server_error", "odd", told_so))
    record(database, ending)
    assert row_of(database, "task_1").error_message == "nul \ufffd, half a pair ?"
    assert attempts(database, "task_1")[0].error_message == "nul \ufffd, half a pair ?"


def test_many_endings_are_answered_in_their_order(database: Database) -> None:
    add(database, *(new_task(f"x{number}") for number in range(30)))
    claims = take(database, *(f"task_x{number}" for number in range(30)))
    ways = [success, failure, again]
    endings = [ways[number % 3](claims[f"task_x{number}"]) for number in reversed(range(30))]
    recorded = record(database, *endings)
    assert [item.task_id for item in recorded] == [ending.claimed.permit.task_id for ending in endings]
    assert [item.status for item in recorded] == [ending.status for ending in endings]
    assert all(item.held for item in recorded)


def test_results_of_any_size_are_recorded_together_with_what_else_they_ended(database: Database) -> None:
    add(database, *(new_task(name) for name in "1234"))
    mine = take(database, "task_1", "task_2", "task_3", "task_4")
    small, large = '{"x":"a\\"\\n你"}', '{"x":"' + "你\\\\" * 100_000 + '"}'
    record(
        database,
        success(mine["task_1"], result=small),
        again(mine["task_2"]),
        success(mine["task_3"], result=large),
        failure(mine["task_4"]),
    )
    rows = [row_of(database, f"task_{number}") for number in range(1, 5)]
    assert [row.status for row in rows] == ["succeeded", "queued", "succeeded", "failed"]
    assert [row.result for row in rows] == [small, None, large, None]
    assert [len(attempts(database, row.id)) for row in rows] == [1, 1, 1, 1]
    used = database.read(lambda conn: report(conn, UsageFilter("0000-01-01", "9999-12-31")))
    assert (sum(one["calls"] for one in used), sum(one["tasks"] for one in used)) == (4, 2)


def test_usage_of_a_failed_call_is_kept_with_its_attempt(database: Database, claimed: Claimed) -> None:
    record(database, again(claimed, usage=TokenUsage(3, 4)))
    (attempt,) = attempts(database, "task_1")
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (3, 4)
    assert row_of(database, "task_1").prompt_tokens is None


@pytest.mark.parametrize("end", [success, failure])
def test_what_was_changed_and_told_stays_with_an_ended_task(
    database: Database, claimed: Claimed, end: Any
) -> None:
    record(database, end(claimed, avoid=("repair:drop:seed:", told_note("seed", "unknown_parameter"))))
    view = task_view(row_of(database, "task_1"), result=None)
    assert [(one.how, one.parameter) for one in view.changes] == [("drop", "seed")]
    if view.error is not None:
        assert (view.error.param, view.error.upstream_code) == ("seed", "unknown_parameter")
