"""The tasks of one queue at one priority that may run, in Redis or not, in the order of serving."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, bindparam, func, select, text

from app.pacing.domain.backlog import Mark, QueuePosition
from app.pacing.domain.throughput import StartEstimate
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.tasks.domain.attempt import TaskFailure
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.tables import IN_LINE, LINE_OF, task
from app.tasks.store.transitions import finish

_IN_ORDER = (
    select(task.c.due, task.c.seq)
    .where(text(f"{LINE_OF} = :queue"), task.c.step == bindparam("step"), text(IN_LINE))
    .order_by(task.c.due, task.c.seq)
    .limit(bindparam("most"))
)
_NUMBERED = (
    select(
        task.c.due,
        task.c.seq,
        (func.row_number().over(order_by=(task.c.due, task.c.seq)) - 1).label("before"),
        func.count().over().label("all"),
    )
    .where(text(f"{LINE_OF} = :queue"), task.c.step == bindparam("step"), text(IN_LINE))
    .subquery()
)
_EVERY_SO_MANY = (
    select(_NUMBERED.c.due, _NUMBERED.c.seq, _NUMBERED.c.before)
    .where(
        (_NUMBERED.c.before % bindparam("stride") == 0) | (_NUMBERED.c.before == _NUMBERED.c.all - 1),
    )
    .order_by(_NUMBERED.c.before)
)
_NEWEST = select(func.coalesce(func.max(task.c.seq), 0))
_STARTED = (
    select(task.c.created_at, task.c.estimated_start_at, task.c.started_at)
    .where(
        task.c.client_id == bindparam("client"),
        task.c.status == Status.SUCCEEDED.value,
    )
    .order_by(task.c.seq.desc())
    .limit(bindparam("most"))
)


def read_line(conn: Connection, queue: str, step: int, limit: int) -> QueuePosition:
    """The first `limit` tasks: as many entries of one index, whatever the backlog."""
    rows = conn.execute(_IN_ORDER, {"queue": queue, "step": step, "most": limit + 1}).all()
    marks = [(row.due, row.seq) for row in rows[:limit]]
    return QueuePosition(marks, whole=len(rows) <= limit, newest=conn.execute(_NEWEST).scalar_one())


def count_line(conn: Connection, queue: str, step: int, stride: int) -> list[tuple[Mark, int]]:
    """Every so many tasks and the last one, each with the number of tasks before it: a walk over one index."""
    rows = conn.execute(_EVERY_SO_MANY, {"queue": queue, "step": step, "stride": stride})
    return [((row.due, row.seq), row.before) for row in rows]


def start_estimates(conn: Connection, client_id: str, limit: int) -> list[StartEstimate]:
    """A client's newest `limit` successes with an upstream call, with the start estimated at submission."""
    rows = conn.execute(_STARTED, {"client": client_id, "most": limit}).all()
    return [StartEstimate(*row) for row in rows if row.started_at is not None]


_DEADLINES = (
    select(task.c.expires_at, task.c.seq)
    .where(text(f"{LINE_OF} = :queue"), task.c.step == bindparam("step"), text(IN_LINE))
    .order_by(task.c.due, task.c.seq)
    .limit(bindparam("most"))
)


def deadlines(conn: Connection, queue: str, step: int, limit: int) -> list[tuple[float, int]]:
    """Deadlines of the first tasks, in the order of serving, each with its seq."""
    rows = conn.execute(_DEADLINES, {"queue": queue, "step": step, "most": limit})
    return [(row.expires_at, row.seq) for row in rows]


def expire_at_once(conn: Connection, numbers: Sequence[int], now: float, why: TaskFailure) -> list[str]:
    """End those of these tasks that still wait as expired. Returns their ids."""
    found = conn.execute(select(task.c.id, task.c.batch_id).where(task.c.seq.in_(numbers))).all()
    batches = lock_batches(conn, (row.batch_id for row in found))
    rows = lock_tasks(conn, (row.id for row in found)).values()
    waiting = [row for row in rows if row.status == Status.QUEUED and row.hold == Hold.NONE]
    return finish(conn, batches, waiting, Status.EXPIRED, now, why)


KEPT = 2.0  # seconds
_MARKS = 5_000  # tasks of a line that are read: some milliseconds; those behind them are counted now and then
_STRIDE = 500  # tasks between two whose place is counted
_COUNT_EVERY = 10.0  # seconds between counts of a line, and at least so many times what one takes
_COUNT_SHARE = 50.0
_LISTS = 1_000  # remembered at once


class Lines:
    """Queue positions, read at most every other second however many ask. Safe to use from many threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, QueuePosition | None]] = {}
        self._came: dict[tuple[str, int], int] = {}
        self._far: dict[tuple[str, int], tuple[float, Sequence[tuple[Mark, int]]]] = {}

    def of(self, queue: str, step: int) -> QueuePosition | None:
        """A recent position; None while the database does not answer. Never raises."""
        now, key = self._clock.monotonic(), (queue, step)
        found = self._known.get(key)
        if found is not None and now < found[0]:
            return found[1]
        with self._lock:
            found = self._known.get(key)
            if found is None or now >= found[0]:
                if len(self._known) >= _LISTS:
                    self._known.clear()
                    self._came.clear()
                    self._far.clear()
                self._came.pop(key, None)
                found = self._known[key] = (now + KEPT, self._read(queue, step))
            return found[1]

    def coming(self, queue: str, step: int, due: float) -> int | None:
        """How many tasks are before a new one, including those that came since the position was read."""
        line = self.of(queue, step)
        if line is None:
            return None
        with self._lock:
            came = self._came[queue, step] = self._came.get((queue, step), -1) + 1
        return line.ahead_of_new(due) + came

    def _read(self, queue: str, step: int) -> QueuePosition | None:
        try:
            line = self._database.read(lambda conn: read_line(conn, queue, step, _MARKS))
            return line if line.whole else replace(line, far=self._count(queue, step))
        except DatabaseUnreachable:
            return None

    def _count(self, queue: str, step: int) -> Sequence[tuple[Mark, int]]:
        """A recent count of a long line. Call under the lock."""
        begun = self._clock.monotonic()
        due, far = self._far.get((queue, step), (begun, ()))
        if begun < due:
            return far
        far = self._database.read(lambda conn: count_line(conn, queue, step, _STRIDE))
        now = self._clock.monotonic()
        self._far[queue, step] = (now + max(_COUNT_EVERY, _COUNT_SHARE * (now - begun)), far)
        return far
