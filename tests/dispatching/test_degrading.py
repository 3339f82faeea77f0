"""Tasks answered by the configured text: who, when, and at what price."""

from __future__ import annotations

import orjson

from app.dispatching.store import degrade
from app.dispatching.waiting_tasks import GiveDegraded
from app.platform.database import Database
from app.submission.steer_batch import SteerBatch
from app.tasks.domain.task import Hold, Status
from app.tasks.store.batches import get_batch
from app.tasks.store.submissions import NewTask
from app.tasks.store.tasks import get_task
from tests.platform.test_unreachable import Announcing
from tests.tasks.rows import NOW, add, add_batch, new_task, row_of, take, told
from tests.tasks.test_windows import Clock

TEXT = "the system is busy, please try later"


def degradable(name: str, **changes: object) -> NewTask:
    return new_task(name, **{"degrade_at": NOW + 30, **changes})


def chore(database: Database, texts: dict[str, str] | None = None) -> tuple[GiveDegraded, Announcing, Clock]:
    publisher, clock = Announcing(), Clock(NOW + 30)
    given = {"deepseek-flash": TEXT} if texts is None else texts
    return GiveDegraded(database, publisher, clock, given), publisher, clock


def test_who_allows_it_and_has_waited_is_answered_by_the_text_at_no_cost(database: Database) -> None:
    add(
        database, degradable("waits", fed_at=NOW, callback_url="https://receiver.example/"), new_task("never")
    )
    add(database, degradable("later", degrade_at=NOW + 31), degradable("backoff", hold=Hold.UNTIL))
    add(
        database, degradable("running"), degradable("paused", hold=Hold.PAUSED), degradable("led", leads=True)
    )
    take(database, "task_running")
    giving, publisher, _ = chore(database)
    assert giving.tick() == 2
    assert sorted(publisher.forgotten) == sorted(publisher.announced) == ["task_backoff", "task_waits"]
    row = database.read(lambda conn: get_task(conn, "alice", "task_waits"))
    assert row is not None
    assert (row.status, row.degraded, row.cached, row.coalesced) == (Status.SUCCEEDED, True, False, False)
    assert (row.cost_picos, row.attempts, row.started_at, row.finished_at) == (0, 0, None, NOW + 30)
    result = orjson.loads(row.result or "")
    assert (result["degraded"], result["model"]) == (True, "deepseek-flash")
    assert result["choices"][0]["message"] == {"role": "assistant", "content": TEXT}
    assert [kind for kind, _ in told(database)] == ["task.succeeded"]
    left = {n: row_of(database, f"task_{n}").status for n in ("never", "later", "running", "paused", "led")}
    assert left == dict.fromkeys(left, Status.QUEUED) | {"running": Status.RUNNING}


def test_a_model_whose_text_was_taken_out_lets_its_tasks_wait_on(database: Database) -> None:
    add(database, degradable("a"))
    giving, _, _ = chore(database, {"other": TEXT})
    assert giving.tick() == 0
    assert row_of(database, "task_a").status == Status.QUEUED
    assert database.write(lambda conn: degrade(conn, NOW + 99, 10, lambda *_: "{}")) == ([], [])


def test_the_time_of_a_pause_of_its_batch_is_not_waiting(database: Database) -> None:
    add_batch(database, 2, task={"degrade_at": NOW + 30})
    giving, publisher, clock = chore(database)
    steering = SteerBatch(database, publisher, clock)
    clock.at = NOW + 20
    steering.pause("alice", "batch_1")
    clock.at = NOW + 500
    steering.resume("alice", "batch_1")
    assert giving.tick() == 0  # ten seconds of its wait are left
    clock.at = NOW + 510
    assert giving.tick() == 2


def test_a_batch_counts_them_as_completed_and_its_wait_begins_with_its_place(database: Database) -> None:
    ids = add_batch(database, 2, task={"degrade_at": NOW + 30, "available_at": NOW - 100}, batch_size=1)
    giving, _, clock = chore(database)
    clock.at = NOW + 100
    assert giving.tick() == 0  # a hundred seconds were not the tiers' to lose
    clock.at = NOW + 130
    assert giving.tick() == 1
    batch = database.read(lambda conn: get_batch(conn, None, "batch_1"))
    assert batch is not None
    assert (batch.completed, row_of(database, ids[1]).hold) == (1, Hold.NONE)
