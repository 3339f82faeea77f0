"""A batch's lines as its files show them, page by page in the order of its input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, select

from app.tasks.domain.task import Status
from app.tasks.store.tables import task, task_content

SUCCESSES = (Status.SUCCEEDED,)
FAILURES = (Status.FAILED, Status.EXPIRED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class LineRow:
    """What a line came to. `result` is JSON text."""

    batch_index: int
    task_id: str
    custom_id: str | None
    status: Status
    result: str | None
    error_code: str | None
    error_type: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class InputRow:
    """A line as it was asked. `request` is JSON text, without `model`."""

    batch_index: int
    custom_id: str | None
    model: str
    request: str | None


def ended_lines(
    conn: Connection, batch_id: str, statuses: Collection[Status], after_index: int, limit: int
) -> list[LineRow]:
    """Lines beyond `after_index` (-1: from the first) that ended so."""
    names = [field.name for field in fields(LineRow)]
    found = _lines(batch_id, after_index, names).where(
        task.c.status.in_([status.value for status in statuses])
    )
    rows = conn.execute(found.order_by(task.c.batch_index).limit(limit))
    return [LineRow(**{**row._asdict(), "status": Status(row.status)}) for row in rows]


def input_lines(conn: Connection, batch_id: str, after_index: int, limit: int) -> list[InputRow]:
    """Lines beyond `after_index` as they were asked."""
    names = [field.name for field in fields(InputRow)]
    found = _lines(batch_id, after_index, names).order_by(task.c.batch_index).limit(limit)
    return [InputRow(**row._asdict()) for row in conn.execute(found)]


def _lines(batch_id: str, after_index: int, names: Collection[str]) -> Any:
    others = {
        "task_id": task.c.id.label("task_id"),
        "result": task_content.c.result,
        "request": task_content.c.request,
    }
    chosen: list[Any] = [others[name] if name in others else task.c[name] for name in names]
    return (
        select(*chosen)
        .join(task_content, task_content.c.seq == task.c.seq)
        .where(task.c.batch_id == batch_id, task.c.batch_index > after_index, task.c.replaced_by.is_(None))
    )
