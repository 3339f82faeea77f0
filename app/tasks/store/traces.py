"""To what trace a task belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from app.tasks.store.tables import task


@dataclass(frozen=True, slots=True)
class Traced:
    """A task with a trace, and from when on it could have run."""

    trace: str
    ready_at: float


def traces_of(conn: Connection, ids: Sequence[str]) -> dict[str, Traced]:
    """Those of these tasks that have one."""
    columns = (task.c.id, task.c.trace, task.c.available_at, task.c.created_at)
    rows = conn.execute(select(*columns).where(task.c.id.in_(ids), task.c.trace.is_not(None)))
    return {row.id: Traced(row.trace, row.available_at or row.created_at) for row in rows}
