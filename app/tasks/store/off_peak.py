"""Rows that wait for off-peak hours (Hold.OFF_PEAK): released when these begin or a deadline nears, and held again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Double, bindparam, case, false, func, null, select, text, update

from app.tasks.domain.task import Hold, PriorityStep
from app.tasks.store.locks import first_rows
from app.tasks.store.tables import IN_LINE, IN_WINDOW, LINE_OF, OFF_PEAK, task

_MAX_DEADLINES = 5_000  # read per queue
_COUNTED = 200_000  # rows counted per queue at most


@dataclass(frozen=True, slots=True)
class OffPeakQueue:
    """Rows of one queue that wait for off-peak hours, and that may run."""

    queue: str
    model: str
    deadlines: list[float]  # the nearest, in order
    count: int
    backlog: int


_NEXT = (
    select(task.c.queue, task.c.model)
    .where(text(OFF_PEAK), task.c.queue > bindparam("after"))
    .order_by(task.c.queue)
    .limit(1)
)
_DEADLINES = (
    select(task.c.expires_at)
    .where(text(OFF_PEAK), task.c.queue == bindparam("queue"))
    .order_by(task.c.queue, task.c.expires_at)
    .limit(_MAX_DEADLINES)
)


def off_peak_queues(conn: Connection) -> list[OffPeakQueue]:
    """Every queue with rows that wait for off-peak hours: one index step each, and a bounded count."""
    found: list[OffPeakQueue] = []
    after = ""
    while (row := conn.execute(_NEXT, {"after": after}).first()) is not None:
        after = row.queue
        deadlines = list(conn.execute(_DEADLINES, {"queue": after}).scalars())
        held = select(task.c.seq).where(text(OFF_PEAK), task.c.queue == after).limit(_COUNTED)
        count = conn.execute(select(func.count()).select_from(held.subquery())).scalar_one()
        found.append(OffPeakQueue(after, row.model, deadlines, count, _in_line(conn, after)))
    return found


def _in_line(conn: Connection, queue: str) -> int:
    """How many rows of a queue may run, at all priorities."""
    lists = (
        select(task.c.seq)
        .where(text(f"{LINE_OF} = :queue"), task.c.step == int(step), text(IN_LINE))
        .limit(_COUNTED)
        for step in PriorityStep
    )
    counts = (
        conn.execute(select(func.count()).select_from(one.subquery()), {"queue": queue}) for one in lists
    )
    return sum(count.scalar_one() for count in counts)


def start_early(conn: Connection, queue: str, until: float, now: float, limit: int) -> int:
    """Release up to `limit` rows with deadlines up to `until`, whatever the hour; returns how many."""
    given = {"of_queue": queue, "until": until, "now": now, "most": limit}
    return len(conn.execute(_START_EARLY, given).all())


def hold_for_window(conn: Connection, model: str, until: float, limit: int) -> list[str]:
    """Hold up to `limit` rows that may run only off-peak; returns their ids, whose messages are void.

    Leaders of identical tasks are not held: their followers may be urgent.
    """
    given = {"of_model": model, "until": until, "most": limit}
    return list(conn.execute(_HOLD, given).scalars())


def open_windows(conn: Connection, now: float, limit: int) -> int:
    """Release up to `limit` rows whose off-peak hours have begun; returns how many."""
    return len(conn.execute(_BEGIN, {"now": now, "most": limit}).all())


_GO: Any = case(
    (task.c.cache_key.is_not(None) & ~task.c.leads & (task.c.attempts == 0), Hold.JOINING.value),
    else_=Hold.NONE.value,
)
_NOW: Any = bindparam("now", type_=Double())
_UNTIL: Any = bindparam("until", type_=Double())
_BEGUN = first_rows(f"{OFF_PEAK} AND available_at <= :now", task.c.available_at)
_BEGIN = update(task).where(task.c.seq == _BEGUN.c.seq).values(hold=_GO).returning(task.c.seq)
_LATE = first_rows(
    f"{OFF_PEAK} AND queue = :of_queue AND expires_at <= :until", task.c.queue, task.c.expires_at
)
_START_EARLY = (
    update(task)
    .where(task.c.seq == _LATE.c.seq)
    .values(
        hold=_GO,
        off_peak=false(),
        available_at=_NOW,
        degrade_at=task.c.degrade_at + _NOW - task.c.available_at,
    )
    .returning(task.c.seq)
)
_OUT_OF_HOURS = first_rows(f"{IN_WINDOW} AND NOT leads AND model = :of_model", task.c.model, task.c.seq)
_HOLD = (
    update(task)
    .where(task.c.seq == _OUT_OF_HOURS.c.seq)
    .values(
        hold=Hold.OFF_PEAK.value,
        available_at=_UNTIL,
        degrade_at=task.c.degrade_at + _UNTIL - task.c.available_at,
        fed_at=null(),
    )
    .returning(task.c.id)
)
