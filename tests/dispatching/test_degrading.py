"""Tasks answered by the configured text: who, when, and at what price."""

from __future__ import annotations

from typing import Any

import orjson

from app.caching.domain.caching import CachedAnswer, Fallback
from app.caching.store.database_answers import DatabaseAnswers
from app.dispatching.store import degrade
from app.dispatching.waiting_tasks import GiveDegraded
from app.platform.database import Database
from app.submission.steer_batch import SteerBatch
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold, Status
from app.tasks.store.batches import get_batch
from app.tasks.store.tasks import get_task
from tests.platform.test_unreachable import Announcing
from tests.tasks.rows import NOW, add, add_batch, new_task, row_of, take, told
from tests.tasks.test_windows import Clock

TEXT = "the system is busy, please try later"


def degradable(name: str, **changes: object) -> NewTask:
    return new_task(name, **{"degrade_at": NOW + 30, **changes})


def chore(
    database: Database, model: str = "deepseek-flash", *, down: tuple[str, ...] = (), **more: Any
) -> tuple[GiveDegraded, Announcing, Clock]:
    publisher, clock = Announcing(), Clock(NOW + 30)
    fallbacks = {model: Fallback(**{"text": TEXT, **more})}
    answers = DatabaseAnswers(database, clock, stale_seconds=100)
    giving = GiveDegraded(database, publisher, clock, fallbacks, answers=answers, down=lambda: down)
    return giving, publisher, clock


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
    giving, _, _ = chore(database, "other")
    assert giving.tick() == 0
    assert row_of(database, "task_a").status == Status.QUEUED
    assert database.write(lambda conn: degrade(conn, NOW + 99, 10, lambda _rows: {})) == ([], [])


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


def test_while_nothing_can_serve_a_model_its_tasks_are_answered_at_once(database: Database) -> None:
    add(database, degradable("waits", degrade_at=NOW + 999), new_task("never"))
    add(database, degradable("scheduled", hold=Hold.UNTIL, available_at=NOW + 500, degrade_at=NOW + 999))
    giving, publisher, _ = chore(database, down=("deepseek-flash",))
    assert giving.tick() == 1
    assert publisher.announced == ["task_waits"]
    elsewhere, _, _ = chore(database, down=("another",))
    add(database, degradable("served", degrade_at=NOW + 999))
    assert elsewhere.tick() == 0


def test_a_stale_cached_answer_is_preferred_to_the_text(database: Database) -> None:
    stale = CachedAnswer('{"choices":[]}')
    for name in ("recent", "ancient"):
        add(database, degradable(name, cache_key=f"client:alice:{name}", cache_look=True))
    giving, _, clock = chore(database, stale_seconds=50.0)
    clock.at = NOW - 90
    giving._cache.keep("client:alice:ancient", stale, 10)  # expires 110 s before
    clock.at = NOW - 5
    giving._cache.keep("client:alice:recent", stale, 10)
    clock.at = NOW + 30
    assert giving.tick() == 2
    rows = {n: database.read(lambda c, n=n: get_task(c, "alice", f"task_{n}")) for n in ("recent", "ancient")}
    shown = {n: (row.degraded, row.cached, row.coalesced, row.cost_picos) for n, row in rows.items() if row}
    assert shown == {"recent": (True, True, False, 0), "ancient": (True, False, False, 0)}
    assert rows["recent"] is not None
    assert rows["recent"].result == stale.result


def test_without_a_text_what_is_not_cached_waits_on(database: Database) -> None:
    add(database, degradable("a"))
    giving, _, _ = chore(database, text=None, stale_seconds=50.0)
    assert giving.tick() == 0
    assert row_of(database, "task_a").status == Status.QUEUED
