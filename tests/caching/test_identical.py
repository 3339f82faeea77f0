"""Identical tasks: one leads, the others end with it, another takes over, nobody is left behind."""

import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update

from app.billing.domain.usage import UsageFilter
from app.billing.store.usage import report
from app.caching.domain.caching import CachedAnswer
from app.caching.store.coalesce_join import (
    JoinResult,
    admit,
    join_waiting,
    replace_abandoned,
    waiting_to_join,
)
from app.dispatching.store import expire
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold, Status
from app.tasks.store.feeding import next_to_feed, promote_due, queues_to_feed
from app.tasks.store.submissions import insert_tasks
from app.tasks.store.tables import task
from app.tasks.store.transitions import cancel_task
from tests.stack import ROOT
from tests.tasks.rows import (
    DAY,
    NOW,
    add,
    add_batch,
    again,
    attempts,
    batch_of,
    failure,
    new_task,
    record,
    row_of,
    success,
    take,
    told,
)

KEY = "client:alice:abc"
ANSWER = CachedAnswer('{"kept":1}', TokenUsage(7, 5, 2, 1), CallCost(34, "USD"))
ALL = UsageFilter("0000", "9999", by=("client_id",))


def cacheable(name: str, key: str = KEY, **changes: Any) -> NewTask:
    return new_task(name, cache_key=key, cache_look=True, cache_seconds=60.0, **changes)


def nothing_kept(keys: Collection[str]) -> dict[str, CachedAnswer]:
    return {}


def submit(database: Database, *tasks: NewTask) -> JoinResult:
    """What a submission does in its transaction."""

    def store(conn: Connection) -> JoinResult:
        rows, settled, _ = admit(conn, [replace(one, fed_at=NOW) for one in tasks], nothing_kept)
        insert_tasks(conn, rows)
        return settled

    return database.write(store)


def join_round(
    database: Database, answers: dict[str, CachedAnswer] | None = None, coalesce: bool = True
) -> JoinResult:
    """What the leader's look does."""
    waiting = database.read(lambda conn: waiting_to_join(conn, 1000))
    return database.write(
        lambda conn: join_waiting(conn, waiting, answers or {}, NOW, coalesce=coalesce, look=nothing_kept)
    )


def abandoned(database: Database, at: float = NOW + 2) -> JoinResult:
    return database.write(lambda conn: replace_abandoned(conn, 100, at))


def states(database: Database, *names: str) -> list[tuple[str, Hold, bool]]:
    rows = [row_of(database, f"task_{name}") for name in names]
    return [(row.status, Hold(row.hold), row.leads) for row in rows]


LEADS = ("queued", Hold.NONE, True)
FOLLOWS = ("queued", Hold.FOLLOWING, False)
DONE = ("succeeded", Hold.FOLLOWING, False)


def feedable(database: Database) -> list[str]:
    """What the feeder would take."""

    def look(conn: Connection) -> Sequence[str]:
        return [
            message.task_id for queue in queues_to_feed(conn) for message in next_to_feed(conn, queue, 100)
        ]

    return list(database.read(look))


def test_the_first_leads_and_others_follow_whether_stored_together_or_later(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"), cacheable("x", "client:alice:other"), new_task("plain"))
    submit(database, cacheable("3"))
    assert states(database, "1", "2", "3", "x") == [LEADS, FOLLOWS, FOLLOWS, LEADS]
    assert states(database, "plain") == [("queued", Hold.NONE, False)]
    assert row_of(database, "task_1").fed_at == NOW
    assert row_of(database, "task_2").fed_at is None
    assert feedable(database) == []


_IN_ITS_OWN_PROCESS = """
import sys
from app.platform.database import Database
from tests.caching.test_identical import cacheable, submit
database, name = Database(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    submit(database, cacheable(f"{name}-{number}"))
database.close()
"""


def test_over_several_processes_on_one_sqlite_file_one_leads_and_all_others_follow(
    migrated_file: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'shared.db')}"
    database = Database(url)
    command = [sys.executable, "-c", _IN_ITS_OWN_PROCESS, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes: list[Any] = [subprocess.Popen([*command, name], **pipes) for name in "ab"]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    names = [f"{name}-{number}" for name in "ab" for number in range(20)]
    assert sorted(states(database, *names)) == sorted([LEADS, *[FOLLOWS] * 39])
    (leader,) = [name for name, state in zip(names, states(database, *names), strict=True) if state == LEADS]
    (recorded,) = record(database, success(take(database, f"task_{leader}")[f"task_{leader}"]))
    assert len(recorded.followers) == 39
    assert {state[0] for state in states(database, *names)} == {"succeeded"}
    database.close()


@pytest.mark.parametrize("changes", [{"cache_look": False}, {"cache_seconds": None}])
def test_who_refreshes_or_only_reads_runs_alone(database: Database, changes: dict[str, Any]) -> None:
    submit(database, cacheable("1"))
    submit(database, replace(cacheable("2"), **changes))
    assert states(database, "2") == [("queued", Hold.NONE, False)]


def test_five_hundred_end_with_one_call_in_one_transaction(database: Database) -> None:
    submit(database, *(cacheable(f"{n}", callback_url="https://alice.example/") for n in range(500)))
    claimed = take(database, *(f"task_{n}" for n in range(500)))
    assert list(claimed) == ["task_0"]
    (recorded,) = record(database, success(claimed["task_0"], simulated=True))
    assert len(recorded.followers) == 499
    assert len(recorded.callbacks) == 500
    for name in ("1", "499"):
        row = row_of(database, f"task_{name}")
        assert (row.status, row.result, row.finished_at) == ("succeeded", '{"choices":[]}', NOW + 1)
        assert (row.cost_picos, row.currency, row.coalesced, row.cached) == (0, "USD", True, False)
        assert (row.prompt_tokens, row.attempts, row.simulated) == (7, 0, True)
    assert states(database, "0") == [("succeeded", Hold.NONE, False)]
    assert len(told(database)) == 500
    assert attempts(database, "task_1") == []
    (used,) = database.read(lambda conn: report(conn, ALL))
    assert (used["tasks"], used["calls"], used["coalesced"]) == (500, 1, 499)
    assert (used["cost"], used["saved_coalescing"]) == (12, 12 * 499)


def test_followers_in_batches_move_their_batches(database: Database) -> None:
    submit(database, cacheable("lead"))
    fields = {"cache_key": KEY, "cache_look": True, "cache_seconds": 60.0}
    add_batch(database, 3, callback_url="https://alice.example/", task=fields)
    join_round(database)
    record(database, success(take(database, "task_lead")["task_lead"]))
    batch = batch_of(database)
    assert (batch.status, batch.completed) == ("completed", 3)
    assert told(database) == [("batch.completed", "batch_1")]


def test_a_retry_keeps_the_lead_and_its_followers(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"))
    record(database, again(take(database, "task_1")["task_1"]))
    assert states(database, "1", "2") == [("queued", Hold.UNTIL, True), FOLLOWS]
    database.write(lambda conn: promote_due(conn, NOW + 100, 10))
    assert states(database, "1") == [LEADS]
    assert abandoned(database) == JoinResult()


@pytest.mark.parametrize("how", ["failed", "cancelled", "expired"])
def test_when_the_leader_ends_otherwise_the_most_urgent_follower_takes_over(
    database: Database, how: str
) -> None:
    submit(database, cacheable("1", expires_at=NOW + 5))
    submit(database, cacheable("2"), cacheable("3", step=6), cacheable("4", expires_at=NOW + 50))
    if how == "failed":
        record(database, failure(take(database, "task_1")["task_1"]))
    elif how == "cancelled":
        database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    else:
        assert database.write(lambda conn: expire(conn, NOW + 6, 10)) == ["task_1"]
    settled = abandoned(database)
    assert settled.released == 1
    assert states(database, "4", "2", "3") == [LEADS, FOLLOWS, FOLLOWS]
    assert (row_of(database, "task_1").status, row_of(database, "task_1").leads) == (how, False)
    assert feedable(database) == ["task_4"]
    record(database, success(take(database, "task_4")["task_4"]))
    assert states(database, "2", "3") == [DONE, DONE]


def test_a_leader_whom_nobody_follows_just_leaves_the_lead(database: Database) -> None:
    submit(database, cacheable("1"))
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    assert abandoned(database).released == 0
    submit(database, cacheable("2"))
    assert states(database, "2") == [LEADS]


def test_who_joins_a_leader_that_has_just_ended_badly_is_not_left_behind(database: Database) -> None:
    submit(database, cacheable("1"))
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    submit(database, cacheable("2"))
    assert states(database, "2") == [FOLLOWS]
    abandoned(database)
    assert states(database, "2") == [LEADS]


def test_a_follower_that_the_end_could_not_see_gets_the_answer_all_the_same(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"))
    record(database, success(take(database, "task_1")["task_1"]))
    late = {"status": "queued", "hold": Hold.FOLLOWING, "finished_at": None, "coalesced": False}
    database.write(lambda conn: conn.execute(update(task).where(task.c.id == "task_2").values(late)))
    database.write(lambda conn: conn.execute(update(task).where(task.c.id == "task_1").values(leads=True)))
    assert abandoned(database).ended == ["task_2"]
    assert states(database, "1", "2") == [("succeeded", Hold.NONE, False), DONE]
    assert row_of(database, "task_2").result == '{"choices":[]}'


def test_a_paused_leader_is_overtaken(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"))
    paused = update(task).where(task.c.id == "task_1").values(hold=Hold.PAUSED)
    database.write(lambda conn: conn.execute(paused))
    abandoned(database)
    assert states(database, "1", "2") == [("queued", Hold.PAUSED, False), LEADS]


def test_a_cancelled_follower_costs_and_changes_nothing_else(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"), cacheable("3"))
    assert database.write(lambda conn: cancel_task(conn, "alice", "task_2", NOW)) is Status.CANCELLED
    (recorded,) = record(database, success(take(database, "task_1")["task_1"]))
    assert recorded.followers == ("task_3",)
    assert row_of(database, "task_2").status == "cancelled"


def test_a_running_leader_that_is_asked_to_end_gives_its_success_all_the_same(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"))
    claimed = take(database, "task_1")["task_1"]
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    record(database, success(claimed))
    assert states(database, "2") == [DONE]


def test_a_higher_priority_takes_the_lead_and_is_what_is_published(database: Database) -> None:
    submit(database, cacheable("1"), cacheable("2"))
    settled = submit(database, cacheable("3", step=0))
    assert settled.replaced == ["task_1"]
    assert states(database, "1", "2", "3") == [FOLLOWS, FOLLOWS, LEADS]
    assert row_of(database, "task_1").fed_at is None
    assert take(database, "task_1") == {}
    record(database, success(take(database, "task_3")["task_3"]))
    assert states(database, "1", "2") == [DONE, DONE]


def test_a_nearer_deadline_sends_the_leader_to_the_front(database: Database) -> None:
    submit(database, cacheable("1"))
    settled = submit(database, cacheable("2", expires_at=NOW + 60))
    assert settled.hurried == ["task_1"]
    assert states(database, "1", "2") == [LEADS, FOLLOWS]
    assert row_of(database, "task_1").front is True


def test_nothing_lifts_a_call_under_way(database: Database) -> None:
    submit(database, cacheable("1"))
    take(database, "task_1")
    settled = submit(database, cacheable("2", step=0, expires_at=NOW + 1))
    assert (settled.replaced, settled.hurried) == ([], [])
    assert states(database, "2") == [FOLLOWS]


def test_batches_wait_to_join_and_find_what_is_kept(database: Database) -> None:
    fields = {"cache_key": KEY, "cache_look": True, "cache_seconds": 60.0}
    ids = add_batch(database, 4, callback_url="https://alice.example/", task=fields)
    assert feedable(database) == []
    settled = join_round(database, {KEY: ANSWER})
    assert (sorted(settled.ended), len(settled.callbacks)) == (sorted(ids), 1)
    row = row_of(database, ids[0])
    assert (row.status, row.cached, row.coalesced, row.result) == ("succeeded", True, False, '{"kept":1}')
    assert (row.cost_picos, row.currency, row.prompt_tokens) == (0, "USD", 7)
    assert batch_of(database).status == "completed"
    (used,) = database.read(lambda conn: report(conn, ALL))
    assert (used["cache_hits"], used["calls"], used["cost"], used["saved_cache"]) == (4, 0, 0, 4 * 34)


def test_batches_are_joined_when_nothing_is_kept(database: Database) -> None:
    fields = {"cache_key": KEY, "cache_look": True, "cache_seconds": 60.0}
    ids = add_batch(database, 4, task=fields)
    settled = join_round(database)
    assert settled.released == 1
    assert feedable(database) == ids[:1]
    record(database, success(take(database, ids[0])[ids[0]]))
    assert batch_of(database).completed == 4


def test_a_place_within_batch_size_is_freed_by_an_answer(database: Database) -> None:
    fields = {"cache_key": KEY, "cache_look": True, "cache_seconds": 60.0}
    add_batch(database, 5, batch_size=2, task=fields)
    ended = 0
    for _ in range(3):
        ended += len(join_round(database, {KEY: ANSWER}).ended)
    assert (ended, batch_of(database).status) == (5, "completed")


def test_who_refreshes_is_not_answered_and_runs(database: Database) -> None:
    fields = {"cache_key": KEY, "cache_look": False, "cache_seconds": 60.0}
    ids = add_batch(database, 2, task=fields)
    assert join_round(database, {KEY: ANSWER}).ended == []
    assert feedable(database) == ids


def test_where_joining_is_switched_off_everybody_runs(database: Database) -> None:
    fields = {"cache_key": KEY, "cache_look": True, "cache_seconds": 60.0}
    ids = add_batch(database, 2, task=fields)
    join_round(database, coalesce=False)
    assert feedable(database) == ids


def test_a_task_for_later_joins_when_its_time_has_come(database: Database) -> None:
    add(database, cacheable("1", hold=Hold.UNTIL, available_at=NOW + 10, expires_at=NOW + DAY))
    submit(database, cacheable("2"))
    database.write(lambda conn: promote_due(conn, NOW + 11, 10))
    assert states(database, "1") == [("queued", Hold.JOINING, False)]
    join_round(database)
    assert states(database, "1", "2") == [FOLLOWS, LEADS]


def test_waiting_to_join_may_be_cancelled_and_does_not_come_back(database: Database) -> None:
    fields = {"cache_key": KEY, "cache_look": True, "cache_seconds": 60.0}
    ids = add_batch(database, 2, task=fields)
    waiting = database.read(lambda conn: waiting_to_join(conn, 1000))
    database.write(lambda conn: cancel_task(conn, "alice", ids[0], NOW))
    settled = database.write(
        lambda conn: join_waiting(conn, waiting, {KEY: ANSWER}, NOW, coalesce=True, look=nothing_kept)
    )
    assert settled.ended == [ids[1]]
    assert row_of(database, ids[0]).status == "cancelled"
