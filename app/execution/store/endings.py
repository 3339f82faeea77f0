"""running -> an end, or back to queued: what attempts came to, recorded once.

A row that was taken from a lost worker accepts that worker's success all the same, unless somebody has claimed it
since: `healing.lose` leaves worker and release in place for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from app.caching.store.reuse_answer import (
    Following,
    ReusedAnswer,
    anyone_left,
    following,
    given_by,
    reuse_answers,
)
from app.execution.store.attempt_writes import AttemptWrites, Change
from app.execution.store.attempts import erase_lost, recorded
from app.execution.store.finish_rows import finished, requeued, used
from app.execution.store.finish_sql import finish_statement, requeue_statement
from app.tasks.domain.attempt import AttemptEnd, Recorded
from app.tasks.domain.task import Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.progress import Callbacks, EndedTask, record_progress


@dataclass(frozen=True, slots=True)
class _Decided:
    """An ending that holds: the row as it stood, and the status it gets."""

    ending: AttemptEnd
    row: Row[Any]
    status: Status

    @property
    def late(self) -> bool:
        return bool(self.row.status == Status.QUEUED)


def end(conn: Connection, endings: Sequence[AttemptEnd]) -> list[Recorded]:
    """Record what attempts came to; gives back, in order, which of them still held their row.

    1. Hold the batches in order of their ids, then the rows in order of theirs, followers' among them.
    2. Decide for each row, from its state: ended, back to the queue, or not ours any more.
    3. Write rows, results, attempts and usage. 4. Give answers to identical tasks that follow.
    5. Let batches advance and write callbacks.

    An ending that was recorded before (its commit was in doubt) is told so again, without its callbacks.
    """
    waiting = following(conn, endings)
    batches = lock_batches(conn, {ending.claimed.batch_id for ending in endings} | waiting.batches)
    rows = lock_tasks(conn, {ending.claimed.permit.task_id for ending in endings} | waiting.ids)
    decided = _decide_all(endings, rows)
    _write(conn, list(decided.values()), _leave_lead(conn, decided.values(), waiting))
    given = {number: given_by(item.ending, item.row, waiting, rows) for number, item in decided.items()}
    reuse_answers(conn, [one for many in given.values() for one in many])
    ended = [EndedTask.of(item.row, item.status, item.ending.finished_at) for item in decided.values()]
    ended += [EndedTask.of(one.row, Status.SUCCEEDED, one.at) for many in given.values() for one in many]
    callbacks = record_progress(conn, batches, [item for item in ended if item.status.ended])
    standing = {name: Status(row.status) for name, row in rows.items()}
    standing |= {item.row.id: item.status for item in decided.values()}
    repeats = _repeats(conn, [item for number, item in enumerate(endings) if number not in decided], standing)
    return [
        _recorded(ending, decided.get(number), given.get(number, ()), callbacks, repeats)
        for number, ending in enumerate(endings)
    ]


def _decide_all(endings: Sequence[AttemptEnd], rows: dict[str, Row[Any]]) -> dict[int, _Decided]:
    """The endings that hold, by their place; of two for one row the first does."""
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
    """The status that the row gets, None when it is not this attempt's any more."""
    mine = (row.worker, row.release) == (ending.claimed.worker, ending.claimed.permit.release)
    succeeded = ending.status is Status.SUCCEEDED
    if not mine or row.status not in (Status.RUNNING, Status.QUEUED):
        return None
    if row.status == Status.QUEUED:
        return Status.SUCCEEDED if succeeded else None
    return Status.CANCELLED if row.cancel_requested and not succeeded else ending.status


def _leave_lead(conn: Connection, decided: Iterable[_Decided], waiting: Following) -> bool:
    """Whether leaders that succeed leave the lead now: all who follow them end with them."""
    led = [item for item in decided if item.status is Status.SUCCEEDED and item.row.leads]
    return not led or not anyone_left(conn, {item.row.cache_key for item in led}, waiting)


def _write(conn: Connection, decided: Sequence[_Decided], leave_lead: bool) -> None:
    if not decided:
        return
    over = [item for item in decided if item.status.ended]
    again = [item for item in decided if not item.status.ended]
    changes: list[Change] = []
    if over:
        changes.append((finish_statement, [_finished(item, leave_lead) for item in over]))
    if again:
        changes.append(
            (requeue_statement, [requeued(item.ending, item.row.status, item.status) for item in again])
        )
    erase_lost(conn, [item.ending.claimed for item in decided if item.late])
    called = [item for item in decided if item.ending.called]
    results = {
        item.row.seq: item.ending.result
        for item in over
        if item.status is Status.SUCCEEDED and item.ending.result is not None
    }
    beside = AttemptWrites(
        results, [item.ending for item in called], [used(item.ending, item.status) for item in called]
    )
    beside.write(conn, changes)


def _finished(item: _Decided, leave_lead: bool) -> dict[str, Any]:
    resigns = leave_lead and item.status is Status.SUCCEEDED
    leads = item.row.leads and not resigns
    return finished(item.ending, item.row.status, item.status, leads=leads)


def _repeats(
    conn: Connection, endings: Sequence[AttemptEnd], standing: dict[str, Status]
) -> dict[tuple[str, int], Status]:
    """What endings that did not hold were recorded as before, if they were."""
    known = recorded(conn, (ending.claimed for ending in endings if ending.called))
    return {
        (name, release): standing[name] if standing[name].ended else Status.QUEUED for name, release in known
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
