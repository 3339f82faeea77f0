"""Rows for the tests, with everything filled in that a test does not speak of."""

from __future__ import annotations

from itertools import count
from typing import Any

from sqlalchemy import Table, select

from app.execution.store.claims import claim
from app.execution.store.endings import record_endings
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import (
    AttemptEnd,
    Claim,
    Claimed,
    Finish,
    Outcome,
    Permit,
    Recorded,
    TaskFailure,
    TokenUsage,
)
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold, Status
from app.tasks.store.submissions import NewBatch, finish_intake, insert_batch, insert_tasks
from app.tasks.store.tables import attempt, batch, callback, task, task_content

NOW = 1_800_000_000.0
DAY = 86_400.0
_numbers = count(1)


def new_task(name: str | None = None, **changes: Any) -> NewTask:
    """A task of Alice's that may run now."""
    fields: dict[str, Any] = {
        "id": f"task_{name or next(_numbers)}",
        "client_id": "alice",
        "model": "deepseek-flash",
        "queue": "backlog.deepseek-flash.alice",
        "step": 3,
        "estimate": 100,
        "created_at": NOW,
        "available_at": NOW,
        "expires_at": NOW + DAY,
        "request": '{"messages":[]}',
    }
    return NewTask(**fields | changes)


def add(database: Database, *tasks: NewTask) -> list[int]:
    """Insert tasks; gives back their sequence numbers."""
    return database.write(lambda conn: insert_tasks(conn, tasks))


def add_batch(
    database: Database,
    size: int,
    name: str = "batch_1",
    *,
    task: dict[str, Any] | None = None,
    **changes: Any,
) -> list[str]:
    """Submit a batch of `size` tasks as the API does: rows held, then let go. Gives back the tasks' ids."""
    rows = [
        new_task(batch_id=name, batch_index=index, hold=Hold.BATCH, **(task or {})) for index in range(size)
    ]
    new = NewBatch(
        name, changes.pop("client_id", "alice"), NOW, changes.pop("expires_at", NOW + DAY), **changes
    )

    def intake(conn: Any) -> None:
        insert_batch(conn, new)
        insert_tasks(conn, rows)
        finish_intake(conn, name, size, NOW)

    database.write(intake)
    return [row.id for row in rows]


def permit(task_id: str, release: int = 1) -> Permit:
    return Permit(task_id, release, "main", "deepseek", "acme", "deepseek-chat", ("q",), 100, NOW)


def take(
    database: Database, *ids: str, worker: str = "w1", release: int = 1, at: float = NOW
) -> dict[str, Claimed]:
    """Claim tasks for a worker."""
    claims = [Claim(permit(task_id, release), worker, at) for task_id in ids]
    return database.write(lambda conn: claim(conn, claims))


def success(claimed: Claimed, at: float = NOW + 1, **changes: Any) -> AttemptEnd:
    fields: dict[str, Any] = {
        "counts": True,
        "result": '{"choices":[]}',
        "finish": Finish.COMPLETE,
        "usage": TokenUsage(7, 5, 2, 1),
        "cost": CallCost(12, "USD"),
        "status_code": 200,
    }
    return AttemptEnd(claimed, Outcome.SUCCEEDED, Status.SUCCEEDED, at, **fields | changes)


def failure(claimed: Claimed, at: float = NOW + 1, **changes: Any) -> AttemptEnd:
    fields: dict[str, Any] = {
        "outcome": Outcome.INVALID_REQUEST,
        "status": Status.FAILED,
        "failure": TaskFailure("invalid_request_error", "bad_thing", "it was bad"),
        "error_message": "it was bad",
        "status_code": 400,
    }
    return AttemptEnd(claimed=claimed, finished_at=at, **fields | changes)


def again(claimed: Claimed, at: float = NOW + 1, **changes: Any) -> AttemptEnd:
    """A call that failed and is to be tried again ten seconds later."""
    fields: dict[str, Any] = {
        "counts": True,
        "available_at": at + 10,
        "status_code": 500,
        "error_message": "oops",
    }
    return AttemptEnd(claimed, Outcome.UNAVAILABLE, Status.QUEUED, at, **fields | changes)


def unsent(claimed: Claimed, at: float = NOW + 1) -> AttemptEnd:
    """A claim given back before anything was sent."""
    return AttemptEnd(claimed, Outcome.RETURNED, Status.QUEUED, at, called=False)


def record(database: Database, *endings: AttemptEnd) -> list[Recorded]:
    """As workers do: in one statement where nothing follows, else the longer way."""
    return record_endings(database, endings)


def row_of(database: Database, task_id: str) -> Any:
    """A task's whole row, with `request` and `result`."""
    both = select(task, task_content.c.request, task_content.c.result).join(
        task_content, task_content.c.seq == task.c.seq
    )
    return database.read(lambda conn: conn.execute(both.where(task.c.id == task_id)).one())


def batch_of(database: Database, batch_id: str = "batch_1") -> Any:
    return database.read(lambda conn: conn.execute(select(batch).where(batch.c.id == batch_id)).one())


def all_of(database: Database, table: Table) -> list[Any]:
    return database.read(lambda conn: list(conn.execute(select(table).order_by(table.c.seq))))


def attempts(database: Database, task_id: str) -> list[Any]:
    return [row for row in all_of(database, attempt) if row.task_id == task_id]


def told(database: Database) -> list[tuple[str, str | None]]:
    """What callbacks were written: (type, the id of the task or batch)."""
    return [(row.type, row.task_id or row.batch_id) for row in all_of(database, callback)]
