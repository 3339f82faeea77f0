"""Ends that nothing follows, in one statement on PostgreSQL: no batch advances, no callback is due, nobody shares.

`endings.end` reads and holds the rows, decides, and writes: four round trips while rows are locked. Here a row is taken
to stand as it was claimed. The statement leaves alone those that do not, and they go the longer way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Table,
    Text,
    Update,
    cast,
    func,
    insert,
    select,
    update,
)

from app.billing.domain.usage import FIGURES, as_columns
from app.billing.store.usage import HEADING, USAGE, usage_entry
from app.execution.store.attempt_writes import LARGE
from app.execution.store.attempts import ATTEMPT, attempt_row
from app.execution.store.finish_rows import finished, used
from app.execution.store.finish_sql import FINISHED, finish
from app.platform.database import count_ended
from app.platform.dialects import ROWS, encode, recordset
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd, Recorded
from app.tasks.domain.task import Status
from app.tasks.store.locks import assume_few, has_status
from app.tasks.store.tables import attempt, task, task_content

Held = tuple[str, int]  # (task id, release)


def has_no_side_effects(ending: AttemptEnd) -> bool:
    """Whether nothing follows from it, as far as its claim told."""
    claimed = ending.claimed
    follows = claimed.batch_id or claimed.callback_url or claimed.cache_key
    is_small = ending.result is None or len(ending.result) < LARGE
    return ending.status.ended and ending.called and not follows and is_small


def held_by(ending: AttemptEnd) -> Held:
    """What it ends."""
    return ending.claimed.permit.task_id, ending.claimed.permit.release


def end_plainly(conn: Connection, endings: Sequence[AttemptEnd]) -> dict[Held, Recorded]:
    """End the rows that stand as they were claimed, on PostgreSQL; gives back those. All must be plain.

    Of two endings for one release the first holds.
    """
    wanted: dict[Held, AttemptEnd] = {}
    for ending in endings:
        wanted.setdefault(held_by(ending), ending)
    at = time.time()
    rows = conn.execute(_statement(), {ROWS: encode(_row(one, at) for one in wanted.values())})
    done = {(row.id, row.release): wanted[row.id, row.release] for row in rows}
    count_ended(ending.status.value for ending in done.values())
    return {key: Recorded(key[0], True, ending.status) for key, ending in done.items()}


def _row(ending: AttemptEnd, at: float) -> dict[str, Any]:
    """All that is written of one end. What goes into other tables has their names in front, as columns recur."""
    call = zip(_named("attempt", ATTEMPT), attempt_row(ending, at), strict=True)
    usage = as_columns(used(ending, ending.status))
    return {
        **finished(ending, Status.RUNNING, ending.status, leads=False),
        "result": None if ending.result is None else seal(ending.result),
        **dict(call),
        **{f"usage_{name}": usage[name] for name in USAGE},
    }


def _named(table: str, columns: Sequence[str]) -> list[str]:
    return [f"{table}_{name}" for name in columns]


@cache
def _statement() -> Update:
    """One recordset holds everything, so that nothing has to be joined by what it holds."""
    found = _found()
    results = (
        update(task_content)
        .where(task_content.c.seq == found.c.seq, found.c.result.is_not(None))
        .values(result=found.c.result)
        .cte("results")
    )
    calls = _insert(
        "attempts", attempt, ATTEMPT, [found.c[name] for name in _named("attempt", ATTEMPT)], found
    )
    statement = finish(found).where(task.c.seq == found.c.seq).returning(task.c.id, task.c.release)
    return statement.add_cte(results, calls, _usage(found))


def _found() -> CTE:
    """The rows that stand as they were claimed, locked in order, each with what is to be written of it."""
    attempts = {f"attempt_{name}": attempt.c[name].type for name in ATTEMPT}
    usage = {f"usage_{name}": usage_entry.c[name].type for name in USAGE}
    wanted = recordset("postgresql", **FINISHED, result=Text(), **attempts, **usage)
    succeeded = wanted.c.status == Status.SUCCEEDED
    found = (
        select(task.c.seq, *wanted.c)
        .join(wanted, wanted.c.id == task.c.id)
        .where(
            assume_few(wanted),
            has_status(Status.RUNNING),
            task.c.worker == wanted.c.worker,
            task.c.release == wanted.c.release,
            task.c.batch_id.is_(None),
            task.c.callback_url.is_(None),
            ~task.c.leads,
            ~task.c.cancel_requested | succeeded,
        )
    )
    return found.order_by(task.c.seq).with_for_update(of=task).cte("found")


def _usage(found: FromClause) -> CTE:
    """What has one heading is one entry."""
    headings = [found.c[name] for name in _named("usage", HEADING)]
    sums = [cast(func.sum(found.c[name]), BigInteger) for name in _named("usage", FIGURES)]
    rows = select(*headings, *sums).group_by(*headings)
    return insert(usage_entry).from_select(list(USAGE), rows).cte("used")


def _insert(
    name: str, table: Table, columns: Sequence[str], values: Sequence[ColumnElement[Any]], found: FromClause
) -> CTE:
    return insert(table).from_select(list(columns), select(*values).select_from(found)).cte(name)
