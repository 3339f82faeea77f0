"""running -> an end, or back to queued: how attempts ended, each recorded once.

Most endings have no side effects: no batch advances, no callback is due, nobody shares the answer. On PostgreSQL these
take one statement (`fast_finish`), which assumes that the row is as it was claimed and skips rows that are not. All
others take the full way (`end`): read and lock, decide, write, four round trips.

A row that was taken from a lost worker still accepts that worker's success, unless it has been claimed since: the
dispatcher leaves worker and release in place for that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Row,
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
from app.caching.store.coalescing_keys import (
    Following,
    ReusedAnswer,
    anyone_left,
    following,
    given_by,
    reuse_answers,
)
from app.execution.in_flight import Held
from app.execution.store.attempts import (
    ATTEMPT,
    FINISHED,
    LARGE,
    AttemptWrites,
    Change,
    attempt_row,
    erase_lost,
    finish,
    finish_statement,
    finished,
    recorded,
    requeue_statement,
    requeued,
    used,
)
from app.platform.database import Database, count_ended
from app.platform.dialects import ROWS, encode, recordset
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd, Recorded
from app.tasks.domain.task import Status
from app.tasks.store.locks import assume_few, has_status, lock_batches, lock_tasks
from app.tasks.store.progress import Callbacks, EndedTask, record_progress
from app.tasks.store.tables import attempt, task, task_content


def record_endings(database: Database, endings: Sequence[AttemptEnd]) -> list[Recorded]:
    """Record endings and commit. Returns, in order, which of them still held their row. Raises DatabaseUnreachable.

    1. If none has side effects, finish those whose rows are as they were claimed.
    2. The rest goes the full way, which also finds what was recorded before.
    """
    recorded: dict[Held, Recorded] = {}
    if database.changes_many_tables and all(map(has_no_side_effects, endings)):
        recorded = database.write_single(lambda conn: fast_finish(conn, endings))
    left = [ending for ending in endings if release_of(ending) not in recorded]
    if left:
        others = database.write(lambda conn: end(conn, left))
        recorded |= {release_of(ending): one for ending, one in zip(left, others, strict=True)}
    return [recorded[release_of(ending)] for ending in endings]


@dataclass(frozen=True, slots=True)
class _Decided:
    """An ending that is valid: the row as it was read, and the status it gets."""

    ending: AttemptEnd
    row: Row[Any]
    status: Status

    @property
    def late(self) -> bool:
        return bool(self.row.status == Status.QUEUED)


def end(conn: Connection, endings: Sequence[AttemptEnd]) -> list[Recorded]:
    """Record how attempts ended. Returns, in order, which of them still held their row.

    1. Lock the batches by id, then the rows by id, including those of followers.
    2. Decide for each row, from its state: ended, back to the queue, or no longer ours.
    3. Write rows, results, attempts and usage. 4. Give the answers to identical tasks that follow.
    5. Advance batches and write callbacks.

    An ending that was recorded before (its commit was in doubt) returns the same, without its callbacks.
    """
    waiting = following(conn, endings)
    batches = lock_batches(conn, {ending.claimed.batch_id for ending in endings} | waiting.batches)
    rows = lock_tasks(conn, {ending.claimed.permit.task_id for ending in endings} | waiting.ids)
    decided = _decide_all(endings, rows)
    _write(conn, list(decided.values()), _stop_leading(conn, decided.values(), waiting))
    given = {number: given_by(item.ending, item.row, waiting, rows) for number, item in decided.items()}
    reuse_answers(conn, [one for many in given.values() for one in many])
    ended = [
        EndedTask.of(item.row, item.status, item.ending.finished_at, item.ending.finish)
        for item in decided.values()
    ]
    ended += [
        EndedTask.of(one.row, Status.SUCCEEDED, one.at, one.answer.finish)
        for many in given.values()
        for one in many
    ]
    callbacks = record_progress(conn, batches, [item for item in ended if item.status.ended])
    statuses = {name: Status(row.status) for name, row in rows.items()}
    statuses |= {item.row.id: item.status for item in decided.values()}
    repeats = _repeats(conn, [item for number, item in enumerate(endings) if number not in decided], statuses)
    return [
        _recorded(ending, decided.get(number), given.get(number, ()), callbacks, repeats)
        for number, ending in enumerate(endings)
    ]


def _decide_all(endings: Sequence[AttemptEnd], rows: dict[str, Row[Any]]) -> dict[int, _Decided]:
    """The valid endings by index; of two for one row, the first."""
    decided: dict[int, _Decided] = {}
    seen: set[str] = set()
    for number, ending in enumerate(endings):
        row = rows.get(ending.claimed.permit.task_id)
        status = _decide(ending, row) if row is not None and row.id not in seen else None
        if row is not None and status is not None:
            seen.add(row.id)
            decided[number] = _Decided(ending, row, status)
    return decided


def _decide(ending: AttemptEnd, row: Row[Any]) -> Status | None:
    """The status that the row gets, None if it no longer belongs to this attempt."""
    mine = (row.worker, row.release) == (ending.claimed.worker, ending.claimed.permit.release)
    succeeded = ending.status is Status.SUCCEEDED
    if not mine or row.status not in (Status.RUNNING, Status.QUEUED):
        return None
    if row.status == Status.QUEUED:
        return Status.SUCCEEDED if succeeded else None
    return Status.CANCELLED if row.cancel_requested and not succeeded else ending.status


def _stop_leading(conn: Connection, decided: Iterable[_Decided], waiting: Following) -> bool:
    """Whether succeeding leaders stop leading now, because all their followers end with them."""
    led = [item for item in decided if item.status is Status.SUCCEEDED and item.row.leads]
    return not led or not anyone_left(conn, {item.row.cache_key for item in led}, waiting)


def _write(conn: Connection, decided: Sequence[_Decided], stop_leading: bool) -> None:
    if not decided:
        return
    over = [item for item in decided if item.status.ended]
    again = [item for item in decided if not item.status.ended]
    changes: list[Change] = []
    if over:
        changes.append((finish_statement, [_finished(item, stop_leading) for item in over]))
    if again:
        changes.append(
            (requeue_statement, [requeued(item.ending, item.row.status, item.status) for item in again])
        )
    erase_lost(conn, [item.ending.claimed for item in decided if item.late])
    called = [item for item in decided if item.ending.called]
    results = {
        item.row.seq: item.ending.result
        for item in over
        if item.ending.result is not None and _keeps_result(item)
    }
    writes = AttemptWrites(
        results, [item.ending for item in called], [used(item.ending, item.status) for item in called]
    )
    writes.write(conn, changes)


def _keeps_result(item: _Decided) -> bool:
    """A failure has a result if it ends with an answer after all: one that a filter withheld."""
    withheld = item.status is Status.FAILED and item.ending.finish is not None
    return item.status is Status.SUCCEEDED or withheld


def _finished(item: _Decided, stop_leading: bool) -> dict[str, Any]:
    resigns = stop_leading and item.status is Status.SUCCEEDED
    leads = item.row.leads and not resigns
    return finished(item.ending, item.row.status, item.status, leads=leads)


def _repeats(
    conn: Connection, endings: Sequence[AttemptEnd], statuses: dict[str, Status]
) -> dict[tuple[str, int], Status]:
    """How invalid endings were recorded before, if they were."""
    known = recorded(conn, (ending.claimed for ending in endings if ending.called))
    return {
        (name, release): statuses[name] if statuses[name].ended else Status.QUEUED for name, release in known
    }


def _recorded(
    ending: AttemptEnd,
    decided: _Decided | None,
    given: Sequence[ReusedAnswer],
    callbacks: Callbacks,
    repeats: dict[tuple[str, int], Status],
) -> Recorded:
    permit = ending.claimed.permit
    if decided is not None:
        others = tuple(one.row.id for one in given)
        events = [event for name in (permit.task_id, *others) for event in callbacks.get(name, ())]
        return Recorded(permit.task_id, True, decided.status, tuple(events), others)
    status = repeats.get((permit.task_id, permit.release))
    return Recorded(permit.task_id, status is not None, status)


def has_no_side_effects(ending: AttemptEnd) -> bool:
    """Whether nothing follows from it, as far as its claim shows."""
    claimed = ending.claimed
    follows = claimed.batch_id or claimed.callback_url or claimed.cache_key
    is_small = ending.result is None or len(ending.result) < LARGE
    return ending.status.ended and ending.called and not follows and is_small


def release_of(ending: AttemptEnd) -> Held:
    """The release that it ends."""
    return ending.claimed.permit.task_id, ending.claimed.permit.release


def fast_finish(conn: Connection, endings: Sequence[AttemptEnd]) -> dict[Held, Recorded]:
    """Finish the rows that are as they were claimed, on PostgreSQL, and return those. No ending may have side effects.

    Of two endings for one release, the first is valid.
    """
    wanted: dict[Held, AttemptEnd] = {}
    for ending in endings:
        wanted.setdefault(release_of(ending), ending)
    at = time.time()
    rows = conn.execute(_statement(), {ROWS: encode(_row(one, at) for one in wanted.values())})
    done = {(row.id, row.release): wanted[row.id, row.release] for row in rows}
    count_ended(ending.status.value for ending in done.values())
    return {key: Recorded(key[0], True, ending.status) for key, ending in done.items()}


def _row(ending: AttemptEnd, at: float) -> dict[str, Any]:
    """Everything written for one ending. Columns of other tables are prefixed with their name."""
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
    """One recordset holds everything, so that nothing has to be joined."""
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
    """The rows that are as they were claimed, locked in order, each with what is to be written."""
    attempts = {f"attempt_{name}": attempt.c[name].type for name in ATTEMPT}
    usage = {f"usage_{name}": usage_entry.c[name].type for name in USAGE}
    wanted = recordset(**FINISHED, result=Text(), **attempts, **usage)
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
    """One entry per heading."""
    headings = [found.c[name] for name in _named("usage", HEADING)]
    sums = [cast(func.sum(found.c[name]), BigInteger) for name in _named("usage", FIGURES)]
    rows = select(*headings, *sums).group_by(*headings)
    return insert(usage_entry).from_select(list(USAGE), rows).cte("used")


def _insert(
    name: str, table: Table, columns: Sequence[str], values: Sequence[ColumnElement[Any]], found: FromClause
) -> CTE:
    return insert(table).from_select(list(columns), select(*values).select_from(found)).cte(name)
