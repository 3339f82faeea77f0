"""Failed lines of a batch, run again: a new task takes the line, the old one stays as it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Text, bindparam, func, select, update

from app.tasks.domain.batch import BatchStatus
from app.tasks.domain.task import NOT_DUE, Hold, Status, new_id
from app.tasks.store.batch_slots import fill_slots
from app.tasks.store.files import drop_output_files
from app.tasks.store.locks import lock_batches
from app.tasks.store.submissions import NewTask, insert_tasks
from app.tasks.store.tables import batch, task, task_content

_FAILED = (Status.FAILED.value, Status.EXPIRED.value)
_ENDS: dict[str, Any] = dict.fromkeys(("finalizing_at", "completed_at", "expired_at"))
_COPIED = tuple(name for name in NewTask.__dataclass_fields__ if name in task.c)
_REPLACED = (
    update(task)
    .where(task.c.seq == bindparam("old"), task.c.replaced_by.is_(None))
    .values(replaced_by=bindparam("new", type_=Text()))
)

Admit = Callable[[Connection, Sequence[NewTask]], Sequence[NewTask]]


def last_failed(conn: Connection, batch_id: str, models: Collection[str]) -> int | None:
    """The newest failed line that may be run again; None when there is none. Later ones are left to the next wish."""
    found: int | None = conn.execute(select(func.max(task.c.seq)).where(*_lines(batch_id, models))).scalar()
    return found


def run_again(
    conn: Connection, batch_id: str, models: Collection[str], last: int, now: float, limit: int, admit: Admit
) -> int:
    """Run up to `limit` failed lines again, up to the one numbered `last`; returns how many there were.

    The batch is `in_progress` from then on, with as much time as it had at first if its own is up. A batch that is
    cancelled, or never began, stays as it is.
    """
    row = lock_batches(conn, [batch_id])[batch_id]
    if row.status not in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.IN_PROGRESS):
        return 0
    columns = [task.c.seq, *(task.c[name] for name in _COPIED), task_content.c.request]
    found = select(*columns).join(task_content, task_content.c.seq == task.c.seq)
    found = found.where(*_lines(batch_id, models), task.c.seq <= last).order_by(task.c.batch_index)
    old = conn.execute(found.limit(limit)).all()
    if not old:
        return 0
    expires_at = _reopen(conn, row, len(old), now)
    new = admit(conn, [_copy(one, now, expires_at) for one in old])
    insert_tasks(conn, new)
    pairs = [{"old": before.seq, "new": after.id} for before, after in zip(old, new, strict=True)]
    conn.execute(_REPLACED, pairs)
    if row.paused_at is None:
        fill_slots(conn, lock_batches(conn, [batch_id])[batch_id], now, len(new))
    return len(old)


def _lines(batch_id: str, models: Collection[str]) -> list[Any]:
    failed = task.c.status.concat("").in_(_FAILED) & task.c.replaced_by.is_(None)
    return [task.c.batch_id == batch_id, failed, task.c.model.in_(models)]


def _reopen(conn: Connection, row: Row[Any], lines: int, now: float) -> float:
    """Let a locked batch go on; returns until when."""
    window = float(row.expires_at - row.created_at)
    expires_at = float(row.expires_at) if row.expires_at > now else now + window
    if row.status != BatchStatus.IN_PROGRESS:
        drop_output_files(conn, row.id)
    again = {"status": BatchStatus.IN_PROGRESS, "failed": batch.c.failed - lines, "expires_at": expires_at}
    conn.execute(update(batch).where(batch.c.id == row.id).values({**again, **_ENDS}))
    return expires_at


def _copy(one: Row[Any], now: float, expires_at: float) -> NewTask:
    same = {name: getattr(one, name) for name in _COPIED}
    fresh = {
        "id": new_id("task", now),
        "created_at": now,
        "available_at": now,
        "expires_at": expires_at,
        "hold": Hold.BATCH,
        "fed_at": None,
        "leads": False,
        "request": one.request,
        "off_peak": False,
        "due": expires_at if one.due < NOT_DUE else NOT_DUE,
        "degrade_at": one.degrade_at and now + one.degrade_at - one.created_at,
        "estimated_start_at": None,
    }
    unreserved = dict.fromkeys(("reserved_tokens", "reserved_picos", "reserved_at"))
    return NewTask(**{**same, **fresh, **unreserved})
