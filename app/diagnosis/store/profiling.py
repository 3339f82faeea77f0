"""What a profile reads: ranges of primary keys, at most so many rows, whatever there is.

Attempts are numbered in the order in which they ended, tasks and callbacks in the order in which they came: an instant
is found by halving the numbers, without an index on time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Table, func, select

from app.diagnosis.domain.time_split import TaskTiming
from app.tasks.store.tables import attempt, callback, task, task_content

Block = tuple[int, int]  # first and last number
MOST_ROWS = 100_000
_BLOCK = 5_000  # rows that follow one another
LONGEST_PROMPT = 65_536  # characters; longer ones are not compared
MOST_PROMPTS = 20_000


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows by number, from `first` to `last`; `sampled`: only blocks of them are read."""

    first: int
    last: int
    most: int

    @property
    def rows(self) -> int:
        """At most: numbers may be missing."""
        return max(0, self.last - self.first + 1)

    @property
    def sampled(self) -> bool:
        """Whether not all of it is read."""
        return self.rows > self.most

    def blocks(self) -> list[Block]:
        """All rows as one, or blocks spread evenly over the span."""
        if not self.sampled:
            return [(self.first, self.last)] if self.rows else []
        size = min(_BLOCK, self.most)
        count = self.most // size
        step = self.rows / count
        starts = [self.first + int(step * number) for number in range(count)]
        return [(start, min(self.last, start + size - 1)) for start in starts]


def attempts_since(conn: Connection, since: float) -> RowRange:
    """The calls that ended since an instant."""
    return RowRange(*_range(conn, attempt, attempt.c.finished_at, since), MOST_ROWS)


def tasks_since(conn: Connection, since: float) -> RowRange:
    """The tasks submitted since an instant."""
    return RowRange(*_range(conn, task, task.c.created_at, since), MOST_PROMPTS)


def callbacks_since(conn: Connection, since: float) -> RowRange:
    """The callbacks that came about since an instant."""
    return RowRange(*_range(conn, callback, callback.c.created_at, since), MOST_ROWS)


def trips(conn: Connection, block: Block, since: float) -> list[TaskTiming]:
    """Calls of one block."""
    a = attempt.c
    tokens = func.coalesce(a.prompt_tokens, 0) + func.coalesce(a.completion_tokens, 0)
    times = (
        a.ready_at,
        a.released_at,
        a.started_at,
        a.sent_at,
        a.first_byte_at,
        a.finished_at,
        a.recorded_at,
    )
    columns = (a.client_id, a.upstream_model, a.key, a.account, a.outcome, *times, tokens)
    rows = select(*columns).where(a.seq.between(*block), a.finished_at >= since).order_by(a.seq)
    return [TaskTiming(*found) for found in map(tuple, conn.execute(rows))]


def callback_seconds(conn: Connection, block: Block, since: float) -> float:
    """Seconds from an ending until its callback was delivered, of one block."""
    c = callback.c
    took = func.coalesce(func.sum(c.finished_at - c.created_at), 0.0)
    rows = select(took).where(c.seq.between(*block), c.created_at >= since, c.status == "delivered")
    return float(conn.execute(rows).scalar_one())


def prompts(conn: Connection, block: Block, since: float) -> Sequence[Any]:
    """Requests of tasks of one block that an upstream answered, those that are not too long to compare."""
    t = task.c
    columns = (t.client_id, t.model, t.completion_tokens, t.cost_picos, t.currency, t.cache_key, t.cache_look)
    mine = t.seq.between(*block) & (t.created_at >= since) & (t.status == "succeeded")
    rows = (
        select(*columns, task_content.c.request).join(task_content, task_content.c.seq == t.seq).where(mine)
    )
    return conn.execute(rows.where(func.length(task_content.c.request) <= LONGEST_PROMPT)).all()


def _range(conn: Connection, table: Table, at: Column[Any], since: float) -> tuple[int, int]:
    """First and last number of the rows since an instant; (1, 0) when there are none."""
    low, last = conn.execute(select(func.min(table.c.seq), func.max(table.c.seq))).one()
    if last is None:
        return 1, 0
    high = last + 1  # the first row that is young enough lies within low..high
    while low < high:
        middle = (low + high) // 2
        nearest = select(table.c.seq, at).where(table.c.seq >= middle).order_by(table.c.seq).limit(1)
        row = conn.execute(nearest).one()
        if row[1] >= since:
            high = middle
        else:
            low = row[0] + 1
    return low, last
