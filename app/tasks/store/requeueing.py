"""running -> queued: a row goes back to the front of its queue, and nobody runs it any more."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Text, Update, case, null, true, update

from app.platform.recordset import ROWS, encode, recordset
from app.tasks.domain.task import Hold, Status
from app.tasks.store.batch_slots import hold_unless_paused
from app.tasks.store.locks import is_now
from app.tasks.store.tables import task

_FED_AGAIN: dict[str, Any] = {"front": true(), "fed_at": null()}
_NOBODY = ("worker", "release", "claimed_at", "key", "account", "upstream_model")


class Requeued(Enum):
    """Why a running row goes back without an ending."""

    LOST = "lost"  # its worker vanished; the call may have been made, and may yet succeed
    UNSENT = "unsent"  # its worker never held it: the claim's answer was lost


def back_in_queue() -> dict[str, Any]:
    """Columns of a row that goes back for good, beside `status` and `hold`: nothing late can come for it."""
    return _FED_AGAIN | {name: null() for name in _NOBODY}


def send_back(conn: Connection, rows: Sequence[Row[Any]], why: Requeued) -> None:
    """Send locked running rows back, from the worker and release they were read with."""
    if rows:
        wanted = encode({"id": row.id, "worker": row.worker, "release": row.release} for row in rows)
        conn.execute(_statement(conn.dialect.name, why), {ROWS: wanted})


@cache
def _statement(dialect: str, why: Requeued) -> Update:
    """A lost row keeps worker and release: whose success is still accepted."""
    wanted = recordset(dialect, id=Text(), worker=Text(), release=BigInteger())
    same = (task.c.worker == wanted.c.worker) & (task.c.release == wanted.c.release)
    lost = {**_FED_AGAIN, "lost": task.c.lost + 1}
    never = case((task.c.attempts == 1, null()), else_=task.c.started_at)
    unsent = {**back_in_queue(), "attempts": task.c.attempts - 1, "started_at": never}
    return (
        update(task)
        .where(task.c.id == wanted.c.id, is_now(Status.RUNNING), same)
        .values(status=Status.QUEUED, hold=hold_unless_paused(Hold.NONE.value))
        .values(lost if why is Requeued.LOST else unsent)
    )
