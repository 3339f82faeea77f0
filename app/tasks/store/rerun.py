"""Running failed tasks again: a new task with the same request replaces each one, which stays as it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, bindparam, func, select, update

from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import NOT_DUE, BatchStatus, Hold, Status, new_id
from app.tasks.store.files import drop_output_files
from app.tasks.store.locks import lock_batches
from app.tasks.store.progress import fill_slots
from app.tasks.store.submissions import insert_tasks
from app.tasks.store.tables import batch, task, task_content

FAILED = (Status.FAILED.value, Status.EXPIRED.value)
_MIN_LIFETIME = 60.0  # seconds
_COPIED = tuple(name for name in NewTask.__dataclass_fields__ if name in task.c)
_KEPT = (task.c.replaced_by.is_(None), task.c.deleted_at.is_(None), task.c.erased_at.is_(None))
_REPLACEABLE = (task.c.status.concat("").in_(FAILED), *_KEPT)  # fits no index, as in locks.py
_SINGLE: dict[str, Any] = {
    "batch_id": None,
    "batch_index": None,
    "hold": Hold.NONE,
    "stream": False,
    "cache_key": None,
    "cache_look": False,
    "cache_seconds": None,
}
_NO_ENDS: dict[str, Any] = dict.fromkeys(("finalizing_at", "completed_at", "expired_at"))
_MARK = update(task).where(task.c.seq == bindparam("old")).values(replaced_by=bindparam("new", type_=Text()))

Admit = Callable[[Connection, Sequence[NewTask]], Sequence[NewTask]]  # raises Rejected


def failed_task(conn: Connection, client_id: str | None, task_id: str) -> Any:
    """Its `status`, `error_code` and `replaced_by`; None when this client (None: any client) has no such task."""
    found = select(task.c.status, task.c.error_code, task.c.replaced_by)
    found = found.where(task.c.id == task_id, task.c.deleted_at.is_(None))
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
        *_KEPT,
        task.c.batch_id.is_(None),
        func.coalesce(task.c.error_code, "").not_in(final),
    )
    if reason is not None:
        found = found.where(task.c.error_code == reason)
    if since is not None:
        found = found.where(task.c.finished_at >= since)
    return list(conn.execute(found.order_by(task.c.seq).limit(limit)).scalars())


def last_failed_line(conn: Connection, batch_id: str, models: Collection[str]) -> int | None:
    """The seq of a batch's newest line that may be run again; None when there is none.

    Lines that fail later are left to the next request.
    """
    found = select(func.max(task.c.seq)).where(*_lines(batch_id, models))
    last: int | None = conn.execute(found).scalar()
    return last


def rerun_task(conn: Connection, task_id: str, now: float, admit: Admit) -> str | None:
    """Replace a failed task by a new one of no batch, which waits for the feeder; returns the id of the new one.

    None: the task was replaced before, has not failed, or is no longer kept. Raises what `admit` raises; nothing is
    changed then.
    """
    old = conn.execute(_old(task.c.id == task_id, *_REPLACEABLE)).all()
    new = _replace(
        conn, old, now, lambda one: now + max(_MIN_LIFETIME, one.expires_at - one.available_at), admit
    )
    return new[0].id if new else None


def rerun_lines(
    conn: Connection, batch_id: str, models: Collection[str], last: int, now: float, limit: int, admit: Admit
) -> int:
    """Run up to `limit` failed lines of a batch again, up to the one with seq `last`; returns how many there were.

    The batch is `in_progress` again; if its deadline has passed, it gets as much time as at first. A batch that is
    cancelled, or never began, stays as it is.
    """
    row = lock_batches(conn, [batch_id])[batch_id]
    if row.status not in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.IN_PROGRESS):
        return 0
    found = _old(*_lines(batch_id, models), task.c.seq <= last)
    old = conn.execute(found.order_by(task.c.batch_index).limit(limit)).all()
    if not old:
        return 0
    expires_at = _reopen(conn, row, len(old), now)
    _replace(conn, old, now, lambda _: expires_at, admit, of_batch=True)
    if row.paused_at is None:
        fill_slots(conn, lock_batches(conn, [batch_id])[batch_id], now, len(old))
    return len(old)


def _lines(batch_id: str, models: Collection[str]) -> list[ColumnElement[bool]]:
    return [task.c.batch_id == batch_id, *_REPLACEABLE, task.c.model.in_(models)]


def _old(*conditions: ColumnElement[bool]) -> Select[Any]:
    """The tasks to replace, locked: of two requests at once, only one finds them."""
    columns = [task.c.seq, *(task.c[name] for name in _COPIED), task_content.c.request]
    found = select(*columns).join(task_content, task_content.c.seq == task.c.seq)
    return found.where(*conditions).with_for_update(of=task)


def _replace(
    conn: Connection,
    old: Sequence[Row[Any]],
    now: float,
    expires_at: Callable[[Row[Any]], float],
    admit: Admit,
    of_batch: bool = False,
) -> Sequence[NewTask]:
    """Insert a copy of each task, and mark the old ones. `of_batch`: they are lines of a batch."""
    if not old:
        return []
    own = {"hold": Hold.BATCH} if of_batch else _SINGLE
    new = admit(conn, [_copy(one, now, expires_at(one), own) for one in old])
    insert_tasks(conn, new)
    conn.execute(
        _MARK, [{"old": before.seq, "new": after.id} for before, after in zip(old, new, strict=True)]
    )
    return new


def _copy(one: Row[Any], now: float, expires_at: float, own: dict[str, Any]) -> NewTask:
    same = {name: getattr(one, name) for name in _COPIED}
    fresh = {
        "id": new_id("task", now),
        "created_at": now,
        "available_at": now,
        "expires_at": expires_at,
        "fed_at": None,
        "leads": False,
        "request": one.request,
        "off_peak": False,
        "due": expires_at if one.due < NOT_DUE else NOT_DUE,
        "degrade_at": one.degrade_at and now + one.degrade_at - one.created_at,
        "estimated_start_at": None,
    }
    unreserved = dict.fromkeys(("reserved_tokens", "reserved_picos", "reserved_at"))
    return NewTask(**{**same, **fresh, **unreserved, **own})


def _reopen(conn: Connection, row: Row[Any], lines: int, now: float) -> float:
    """Set a locked batch to `in_progress`; returns its deadline."""
    window = float(row.expires_at - row.created_at)
    expires_at = float(row.expires_at) if row.expires_at > now else now + window
    if row.status != BatchStatus.IN_PROGRESS:
        drop_output_files(conn, row.id)
    again = {"status": BatchStatus.IN_PROGRESS, "failed": batch.c.failed - lines, "expires_at": expires_at}
    conn.execute(update(batch).where(batch.c.id == row.id).values({**again, **_NO_ENDS}))
    return expires_at
