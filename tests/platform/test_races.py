"""Several processes work on one database at the same time, as workers, leader and API do."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from threading import Barrier, Thread
from typing import Any

from sqlalchemy import select, text

from app.dispatching.store import expire, lose
from app.execution.store.claims import claim
from app.execution.store.endings import end
from app.platform.database import Database
from app.tasks.domain.attempt import Claim
from app.tasks.domain.task import ENDS, Status
from app.tasks.store.feeding import mark_fed, mark_unqueued, next_to_feed, promote_due, queues_to_feed
from app.tasks.store.tables import attempt, batch, callback, task
from app.tasks.store.transitions import cancel_batch, cancel_task
from tests.tasks.rows import (
    DAY,
    NOW,
    add_batch,
    again,
    all_of,
    batch_of,
    failure,
    permit,
    record,
    success,
    take,
    told,
    unsent,
)

BATCHES = ("batch_1", "batch_2", "batch_3")


def test_last_tasks_of_a_batch_that_end_at_the_same_time_complete_it_once(database: Database) -> None:
    """Each in a transaction of its own; neither sees the other's row, so the batch's row has to count."""
    for round_number in range(10):
        name = f"batch_{round_number}"
        ids = add_batch(database, 4, name, callback_url="https://a.example/")
        claims = take(database, *ids)
        start = Barrier(4)

        def finish(claimed: Any, start: Barrier = start) -> None:
            start.wait(60)
            record(database, success(claimed))

        threads = [Thread(target=finish, args=(claims[task_id],)) for task_id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert batch_of(database, name).status == "completed"
        assert batch_of(database, name).completed == 4
    assert Counter(told(database)) == Counter(("batch.completed", f"batch_{number}") for number in range(10))


def test_processes_that_work_cancel_expire_and_lose_at_once_agree_in_the_end(
    database: Database, migrated_url: str
) -> None:
    every = {"callback_url": "https://a.example/", "expires_at": NOW + DAY}
    for name, size in zip(BATCHES, (None, 5, 20), strict=True):
        add_batch(database, 60, name, batch_size=size, callback_url="https://a.example/b", task=every)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_work, args=(migrated_url, number)) for number in range(2)]
    processes.append(spawn.Process(target=_disturb, args=(migrated_url,)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    _check(database)
    if database.dialect == "postgresql":
        deadlocks = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert database.read(lambda conn: conn.execute(deadlocks).scalar()) == 0


def _work(url: str, number: int) -> None:
    """Claim and end rows in groups, in any order, until none is left."""
    database, chance, release = Database(url), random.Random(number), 0
    ways = [success] * 5 + [failure, again, unsent]
    while True:
        rows = _unended(database)
        if not rows:
            break
        release += 1
        wanted = chance.sample(rows, min(len(rows), 25))
        claims = [Claim(permit(name, release), f"w{number}", NOW) for name in wanted]
        mine = list(database.write(lambda conn, claims=claims: claim(conn, claims)).values())
        chance.shuffle(mine)
        endings = [chance.choice(ways)(claimed) for claimed in mine]
        database.write(lambda conn, endings=endings: end(conn, endings))
        if chance.random() < 0.3:
            database.write(lambda conn: promote_due(conn, NOW + 100, 50))
    database.close()


def _disturb(url: str) -> None:
    """Feed and give back, cancel single tasks and a whole batch, take rows from working workers, expire the rest."""
    database, chance = Database(url), random.Random(9)
    for number in range(40):
        rows = _unended(database)
        if not rows:
            break
        for queue in database.read(queues_to_feed):
            messages = database.read(lambda conn, queue=queue: next_to_feed(conn, queue, 30))
            ids = [message.task_id for message in messages][::-1]
            database.write(lambda conn, ids=ids: mark_fed(conn, ids, NOW))
            database.write(lambda conn, ids=ids: mark_unqueued(conn, ids))
        name, worker = chance.choice(rows), f"w{chance.randrange(2)}"
        database.write(lambda conn, name=name: cancel_task(conn, "alice", name, NOW))
        database.write(lambda conn, worker=worker: lose(conn, worker, NOW, 5))
        if number == 8:
            database.write(lambda conn: cancel_batch(conn, "alice", BATCHES[2], NOW))
        now = NOW + (2 * DAY if number > 25 else 0)
        database.write(lambda conn, now=now: expire(conn, now, 20))
    database.close()


def _unended(database: Database) -> list[str]:
    open_ones = select(task.c.id).where(task.c.status.in_([Status.QUEUED, Status.RUNNING]))
    return list(database.read(lambda conn: conn.execute(open_ones).scalars().all()))


def _check(database: Database) -> None:
    rows = all_of(database, task)
    assert {Status(row.status) for row in rows} <= ENDS
    news = Counter((row.type, row.task_id or row.batch_id) for row in all_of(database, callback))
    expected = Counter((f"task.{row.status}", row.id) for row in rows)
    for one in all_of(database, batch):
        states = Counter(row.status for row in rows if row.batch_id == one.id)
        failed = states["failed"] + states["expired"]
        assert (one.completed, one.failed, one.cancelled) == (
            states["succeeded"],
            failed,
            states["cancelled"],
        )
        assert one.total == one.completed + one.failed + one.cancelled == 60
        # Clocks differ here by days, so the last to end may be before the deadline or after it.
        late = failed and any(row.finished_at >= one.expires_at for row in rows if row.batch_id == one.id)
        possible = {"completed", "expired"} if late else {"completed"}
        assert one.status in ({"cancelled"} if one.cancelling_at else possible)
        expected[f"batch.{one.status}", one.id] += 1
    assert news == expected
    written = Counter(row.task_id for row in all_of(database, attempt))
    assert {row.id: row.attempts for row in rows if row.attempts} == dict(written)
