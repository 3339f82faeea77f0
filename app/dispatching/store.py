"""Statements of the reconciler and other periodic jobs: expire, take from lost workers, degrade."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    null,
    select,
    text,
    tuple_,
    update,
)

from app.caching.domain.caching import CachedAnswer
from app.caching.store.coalescing_keys import ReusedAnswer, reuse_answers
from app.execution.store.attempts import write_lost
from app.platform.dialects import ROWS, encode, recordset
from app.tasks.domain.attempt import TaskFailure
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import LockedBatches, lock_batches, lock_tasks
from app.tasks.store.progress import EndedTask, record_progress
from app.tasks.store.tables import DEGRADABLE, FED, QUEUED, RUNNING, task
from app.tasks.store.transitions import RequeueReason, finish, requeue

MOST_LOSSES = 3  # a task that lost so many workers is not retried
EXPIRED = TaskFailure("timeout_error", "expired", "the task's deadline passed before it could run")
WORKER_LOST = TaskFailure("server_error", "worker_lost", "the task's worker was lost three times")


@dataclass(frozen=True, slots=True)
class FedRow:
    """A queued row, which should have a place or a permit in Redis."""

    task_id: str
    seq: int
    queue: str
    fed_at: float


@dataclass(frozen=True, slots=True)
class RunningRow:
    """A row that a worker runs."""

    task_id: str
    worker: str
    release: int
    key: str
    account: str
    upstream_model: str
    estimate: int
    started_at: float  # of this attempt

    @classmethod
    def of(cls, row: Row[Any]) -> RunningRow:
        """From a row of `task`."""
        who = (row.id, row.worker, row.release, row.key, row.account, row.upstream_model)
        return cls(*who, row.estimate, row.claimed_at)


def fed_page(conn: Connection, after: tuple[float, int], until: float, limit: int) -> list[FedRow]:
    """Queued rows beyond `after` (fed_at, seq) in that order, queued at `until` or before."""
    beyond = tuple_(task.c.fed_at, task.c.seq) > tuple_(*after)
    page = select(task.c.id, task.c.seq, task.c.queue, task.c.fed_at).where(text(FED), beyond)
    page = page.where(task.c.fed_at >= after[0], task.c.fed_at <= until)
    return [FedRow(*row) for row in conn.execute(page.order_by(task.c.fed_at, task.c.seq).limit(limit))]


def running_rows(conn: Connection) -> list[RunningRow]:
    """All running rows, to rebuild permits from."""
    return [RunningRow.of(row) for row in conn.execute(select(task).where(text(RUNNING)))]


def releases_of(conn: Connection, ids: Iterable[str]) -> dict[str, tuple[Status, int | None]]:
    """Status and last release of these tasks; unknown ids are left out."""
    found = conn.execute(_releases(), {ROWS: encode({"id": name} for name in ids)})
    return {row.id: (Status(row.status), row.release) for row in found}


def expire(conn: Connection, now: float, limit: int) -> list[str]:
    """End up to `limit` queued tasks whose deadline has passed; returns their ids.

    Running ones are left to their worker.
    """
    late = select(task.c.id, task.c.batch_id).where(text(QUEUED), task.c.expires_at <= now)
    found = conn.execute(late.order_by(task.c.expires_at).limit(limit)).all()
    if not found:
        return []
    batches = lock_batches(conn, (row.batch_id for row in found))
    rows = lock_tasks(conn, (row.id for row in found)).values()
    waiting = [row for row in rows if row.status == Status.QUEUED]
    return finish(conn, batches, waiting, Status.EXPIRED, now, EXPIRED)


def lose(conn: Connection, worker_id: str, now: float, limit: int) -> list[RunningRow]:
    """Take up to `limit` running rows from a lost worker. Returns them as they ran; call it until there are none.

    They return to the front of their queues, and a success of the worker is still accepted. Who has been lost for
    the third time fails, who was asked to cancel is cancelled.
    """
    theirs = select(task.c.id, task.c.batch_id).where(text(RUNNING), task.c.worker == worker_id)
    found = conn.execute(theirs.limit(limit)).all()
    if not found:
        return []
    batches = lock_batches(conn, (row.batch_id for row in found))
    locked = lock_tasks(conn, (row.id for row in found)).values()
    rows = [row for row in locked if row.status == Status.RUNNING and row.worker == worker_id]
    write_lost(conn, rows, now)
    _take_away(conn, batches, rows, now)
    return [RunningRow.of(row) for row in rows]


def _take_away(conn: Connection, batches: LockedBatches, rows: Sequence[Row[Any]], now: float) -> None:
    cancelled = [row for row in rows if row.cancel_requested]
    failed = [row for row in rows if not row.cancel_requested and row.lost + 1 >= MOST_LOSSES]
    gone = {row.id for row in (*cancelled, *failed)}
    finish(conn, batches, cancelled, Status.CANCELLED, now)
    finish(conn, batches, failed, Status.FAILED, now, WORKER_LOST)
    requeue(conn, [row for row in rows if row.id not in gone], RequeueReason.LOST)


@cache
def _releases() -> Select[Any]:
    wanted = recordset(id=Text())
    return select(task.c.id, task.c.status, task.c.release).join(wanted, wanted.c.id == task.c.id)


_DUE = (
    select(task.c.id, task.c.batch_id)
    .where(
        text(DEGRADABLE),
        (task.c.degrade_at <= bindparam("now"))
        | (
            task.c.model.in_(bindparam("models", expanding=True))
            & ((task.c.hold == Hold.NONE) | (task.c.attempts > 0))  # not one that is scheduled for later
        ),
    )
    .order_by(task.c.degrade_at)
    .limit(bindparam("most"))
)


Fallbacks = Callable[[Sequence[Row[Any]]], Mapping[str, CachedAnswer]]
"""What answers these tasks, by id. Those left out have no answer any more and wait on."""


def degrade(
    conn: Connection, now: float, limit: int, answers: Fallbacks, down: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """End up to `limit` tasks that have waited long enough, those of models that are `down` at once.

    Returns their ids, and the callbacks that now wait.
    """
    found = conn.execute(_DUE, {"now": now, "models": list(down), "most": limit}).all()
    if not found:
        return [], []
    batches = lock_batches(conn, (row.batch_id for row in found))
    rows = [row for row in lock_tasks(conn, (row.id for row in found)).values() if _waits(row)]
    given = answers(rows)
    _forget(conn, [row for row in rows if row.id not in given])
    reused = [ReusedAnswer(row, given[row.id], now, cached=True) for row in rows if row.id in given]
    reuse_answers(conn, reused)
    progress = record_progress(
        conn, batches, [EndedTask.of(one.row, Status.SUCCEEDED, now) for one in reused]
    )
    return [one.row.id for one in reused], [event for events in progress.values() for event in events]


def _waits(row: Row[Any]) -> bool:
    return row.status == Status.QUEUED and row.hold in (Hold.NONE, Hold.UNTIL) and not row.leads


def _forget(conn: Connection, rows: Sequence[Row[Any]]) -> None:
    """Do not check tasks again whose model has no such text any more."""
    for row in rows:
        conn.execute(update(task).where(task.c.seq == row.seq).values(degrade_at=null()))
