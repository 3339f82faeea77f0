"""A task that failed, and the new one that takes its place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, func, select, update

from app.tasks.domain.task import Status
from app.tasks.store.submissions import NewTask, insert_tasks
from app.tasks.store.tables import task, task_content

FAILED = (Status.FAILED, Status.EXPIRED)
_FACTS = (task.c.status, task.c.error_code, task.c.replaced_by)
_COPIED = (
    task.c.client_id,
    task.c.model,
    task.c.queue,
    task.c.step,
    task.c.estimate,
    task.c.custom_id,
    task.c.retry,
    task.c.callback_url,
    task.c.metadata,
    task.c.facts,
    task.c.prefix,
    task.c.stored,
)

Admit = Callable[[Connection, NewTask], NewTask]  # raises Rejected


def failed_task(conn: Connection, client_id: str | None, task_id: str) -> Any:
    """Its `status`, `error_code` and `replaced_by`; None when this client (None: anyone) has no such task."""
    found = select(*_FACTS).where(task.c.id == task_id, task.c.deleted_at.is_(None))
    return conn.execute(found if client_id is None else found.where(task.c.client_id == client_id)).first()


def failed_tasks(
    conn: Connection,
    client_id: str,
    reason: str | None,
    since: float | None,
    final: Collection[str],
    limit: int,
) -> list[str]:
    """Ids of a client's tasks that may be run again, oldest first: of no batch, and not failed for a `final` reason."""
    found = select(task.c.id).where(
        task.c.client_id == client_id,
        task.c.status.in_(FAILED),
        task.c.batch_id.is_(None),
        task.c.replaced_by.is_(None),
        task.c.deleted_at.is_(None),
        task.c.erased_at.is_(None),
        func.coalesce(task.c.error_code, "").not_in(final),
    )
    if reason is not None:
        found = found.where(task.c.error_code == reason)
    if since is not None:
        found = found.where(task.c.finished_at >= since)
    return list(conn.execute(found.order_by(task.c.seq).limit(limit)).scalars())


def run_again(conn: Connection, task_id: str, new_id: str, now: float, admit: Admit) -> bool:
    """Insert a copy that waits for the feeder, and mark the old one. False: it was replaced before, has
    not failed, or is kept no more. Raises what `admit` raises: nothing is changed then.

    The mark is a compare-and-set: of two who ask at once, one makes a new task.
    """
    free = (task.c.id == task_id) & task.c.replaced_by.is_(None)
    kept = task.c.deleted_at.is_(None) & task.c.erased_at.is_(None)
    failed = free & kept & task.c.status.in_(FAILED)
    if not conn.execute(update(task).where(failed).values(replaced_by=new_id)).rowcount:
        return False
    times = (task.c.expires_at - task.c.available_at).label("lifetime")
    found = select(*_COPIED, times, task_content.c.request).join(
        task_content, task_content.c.seq == task.c.seq
    )
    old = conn.execute(found.where(task.c.id == task_id)).one()._asdict()
    expires_at = now + max(60.0, old.pop("lifetime"))
    new = NewTask(id=new_id, created_at=now, available_at=now, expires_at=expires_at, **old)
    insert_tasks(conn, [admit(conn, new)])
    return True
