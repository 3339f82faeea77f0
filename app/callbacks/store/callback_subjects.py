"""What a callback tells of: the row of a task or a batch, and a result that is not too large to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    RowMapping,
    Select,
    bindparam,
    case,
    cast,
    func,
    select,
)

from app.tasks.store.tables import batch, task, task_content


@dataclass(frozen=True, slots=True)
class TaskSubject:
    """A task's row by column names, and its result as JSON text unless that is `too_large`."""

    row: Mapping[str, Any]
    result: str | None
    too_large: bool


def task_subject(conn: Connection, task_id: str, most_bytes: int) -> TaskSubject | None:
    """Read a task whose result is wanted up to `most_bytes`; None when there is no such task."""
    values = {"which": task_id, "most": most_bytes}
    row = conn.execute(_task_statement(conn.dialect.name), values).mappings().first()
    if row is None:
        return None
    return TaskSubject(_by_name(row), row["small_result"], bool(row["too_large"]))


def batch_subject(conn: Connection, batch_id: str) -> Mapping[str, Any] | None:
    """Read a batch's row by column names; None when there is no such batch."""
    row = conn.execute(_BATCH, {"which": batch_id}).mappings().first()
    return None if row is None else _by_name(row)


def _by_name(row: RowMapping) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


_BATCH = select(batch).where(batch.c.id == bindparam("which"))


@cache
def _task_statement(dialect: str) -> Select[Any]:
    size, most = _bytes(dialect, task_content.c.result), bindparam("most", type_=Integer())
    small = case((size <= most, task_content.c.result))
    return (
        select(task, small.label("small_result"), (size > most).label("too_large"))
        .outerjoin(task_content, task_content.c.seq == task.c.seq)
        .where(task.c.id == bindparam("which"))
    )


def _bytes(dialect: str, column: ColumnElement[Any]) -> ColumnElement[int]:
    if dialect == "postgresql":
        return func.octet_length(column)
    return func.length(cast(column, LargeBinary))
