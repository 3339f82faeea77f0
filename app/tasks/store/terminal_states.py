"""Ends that need no upstream's answer: cancelled, expired, lost too often."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Integer, Row, Text, Update, bindparam, update

from app.platform.recordset import ROWS, encode, recordset
from app.tasks.domain.attempt import TaskFailure
from app.tasks.domain.task import Status
from app.tasks.store.locks import Batches
from app.tasks.store.progress import Ended, record_progress
from app.tasks.store.tables import task


def finish(
    conn: Connection,
    batches: Batches,
    rows: Sequence[Row[Any]],
    status: Status,
    at: float,
    failure: TaskFailure | None = None,
    *,
    unsent: bool = False,
) -> list[str]:
    """End these locked tasks from the state they were read in; gives back the ids that ended.

    `batches` holds the locked rows of all their batches. `unsent` says that the call they were claimed for was
    never made, so that it does not count as an attempt.
    """
    if not rows:
        return []
    values = {
        ROWS: encode({"id": row.id, "was": row.status} for row in rows),
        "to": status,
        "at": at,
        "code": failure and failure.code,
        "type": failure and failure.type,
        "message": failure and failure.message,
        "unsent": int(unsent),
    }
    changed = set(conn.execute(_statement(conn.dialect.name), values).scalars())
    ended = [Ended.of(row, status, at) for row in rows if row.id in changed]
    record_progress(conn, batches, ended)
    return [end.task_id for end in ended]


@cache
def _statement(dialect: str) -> Update:
    wanted = recordset(dialect, id=Text(), was=Text())
    return (
        update(task)
        .where(task.c.id == wanted.c.id, task.c.status == wanted.c.was)
        .values(
            status=bindparam("to"),
            finished_at=bindparam("at"),
            error_code=bindparam("code"),
            error_type=bindparam("type"),
            error_message=bindparam("message"),
            attempts=task.c.attempts - bindparam("unsent", type_=Integer()),
        )
        .returning(task.c.id)
    )
