"""queued -> succeeded by the configured text: tasks that allow it and have waited as long as was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Update,
    bindparam,
    case,
    false,
    func,
    null,
    select,
    text,
    true,
    update,
)

from app.billing.domain.usage import Heading, UsageEntry, UsageFigures, day_of
from app.billing.store.usage import write_usage
from app.platform.dialects import ROWS, encode, recordset
from app.platform.domain.money import NO_SUM
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.progress import EndedTask, record_progress
from app.tasks.store.tables import DEGRADABLE, task, task_content

_DUE = (
    select(task.c.id, task.c.batch_id)
    .where(text(DEGRADABLE), task.c.degrade_at <= bindparam("now"))
    .order_by(task.c.degrade_at)
    .limit(bindparam("most"))
)
_RESULT = (
    update(task_content).where(task_content.c.seq == bindparam("number")).values(result=bindparam("json"))
)


def degrade(
    conn: Connection, now: float, limit: int, answer: Callable[[str, str], str | None]
) -> tuple[list[str], list[str]]:
    """End up to `limit` tasks; gives back their ids, and the callbacks that now wait.

    `answer` gives a result as JSON text for a task's id and model; None: its model has none any more, and it waits on.
    """
    found = conn.execute(_DUE, {"now": now, "most": limit}).all()
    if not found:
        return [], []
    batches = lock_batches(conn, (row.batch_id for row in found))
    rows = [row for row in lock_tasks(conn, (row.id for row in found)).values() if _waits(row)]
    results = {row.seq: answer(row.id, row.model) for row in rows}
    given = [row for row in rows if results[row.seq] is not None]
    _forget(conn, [row for row in rows if results[row.seq] is None])
    if not given:
        return [], []
    conn.execute(_statement(conn.dialect.name), {ROWS: encode({"seq": row.seq} for row in given), "at": now})
    conn.execute(_RESULT, [{"number": row.seq, "json": results[row.seq]} for row in given])
    write_usage(
        conn,
        (UsageEntry(Heading(day_of(now), row.client_id, row.model), UsageFigures(tasks=1)) for row in given),
    )
    told = record_progress(conn, batches, [EndedTask.of(row, Status.SUCCEEDED, now) for row in given])
    return [row.id for row in given], [event for events in told.values() for event in events]


def _waits(row: Row[Any]) -> bool:
    return row.status == Status.QUEUED and row.hold in (Hold.NONE, Hold.UNTIL) and not row.leads


def _forget(conn: Connection, rows: Sequence[Row[Any]]) -> None:
    """Those whose model has no such text any more are not looked at again."""
    for row in rows:
        conn.execute(update(task).where(task.c.seq == row.seq).values(degrade_at=null()))


@cache
def _statement(dialect: str) -> Update:
    """What earlier calls of its own cost stays."""
    wanted = recordset(dialect, seq=BigInteger())
    cost = case((task.c.currency == NO_SUM, null()), else_=func.coalesce(task.c.cost_picos, 0))
    return (
        update(task)
        .where(task.c.seq == wanted.c.seq)
        .values(
            status=Status.SUCCEEDED,
            finished_at=bindparam("at"),
            degraded=true(),
            cached=false(),
            simulated=false(),
            cost_picos=cost,
            prompt_tokens=0,
            completion_tokens=0,
            fed_at=null(),
        )
    )
