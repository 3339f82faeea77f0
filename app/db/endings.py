"""running -> an end, or back to queued: what attempts came to, recorded once.

A row that was taken from a lost worker accepts that worker's success all the same, unless somebody has claimed it
since: `healing.lose` leaves worker and release in place for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from app.db.answering import Given, give_answers
from app.db.attempts import erase_lost, recorded
from app.db.beside import Beside, Change
from app.db.ending_statements import finish_statement, requeue_statement
from app.db.following import Following, anyone_left, following, given_by
from app.db.locks import lock_batches, lock_tasks
from app.db.progress import Callbacks, Ended, record_progress
from app.db.sealing import seal
from app.domain.attempt import Ending, Failure, Recorded
from app.domain.money import NO_SUM
from app.domain.task import Hold, Status
from app.domain.usage import Entry, Heading, call_figures, day_of


@dataclass(frozen=True, slots=True)
class _Decided:
    """An ending that holds: the row as it stood, and the status it gets."""

    ending: Ending
    row: Row[Any]
    status: Status

    @property
    def late(self) -> bool:
        return bool(self.row.status == Status.QUEUED)


def end(conn: Connection, endings: Sequence[Ending]) -> list[Recorded]:
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
    give_answers(conn, [one for many in given.values() for one in many])
    ended = [Ended.of(item.row, item.status, item.ending.finished_at) for item in decided.values()]
    ended += [Ended.of(one.row, Status.SUCCEEDED, one.at) for many in given.values() for one in many]
    callbacks = record_progress(conn, batches, [item for item in ended if item.status.ended])
    standing = {name: Status(row.status) for name, row in rows.items()}
    standing |= {item.row.id: item.status for item in decided.values()}
    repeats = _repeats(conn, [item for number, item in enumerate(endings) if number not in decided], standing)
    return [
        _recorded(ending, decided.get(number), given.get(number, ()), callbacks, repeats)
        for number, ending in enumerate(endings)
    ]


def _decide_all(endings: Sequence[Ending], rows: dict[str, Row[Any]]) -> dict[int, _Decided]:
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


def _decide(ending: Ending, row: Row[Any]) -> Status | None:
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
        changes.append((requeue_statement, map(_requeued, again)))
    erase_lost(conn, [item.ending.claimed for item in decided if item.late])
    called = [item for item in decided if item.ending.called]
    results = {
        item.row.seq: item.ending.result
        for item in over
        if item.status is Status.SUCCEEDED and item.ending.result is not None
    }
    beside = Beside(results, [item.ending for item in called], list(map(_used, called)))
    beside.write(conn, changes)


def _used(item: _Decided) -> Entry:
    ending, permit = item.ending, item.ending.claimed.permit
    heading = Heading(
        day_of(ending.finished_at),
        ending.claimed.client_id,
        ending.claimed.model,
        permit.key,
        permit.account,
        permit.upstream_model,
        ending.cost.currency if ending.cost else "",
    )
    succeeded = item.status is Status.SUCCEEDED
    return Entry(heading, call_figures(ending.usage, ending.cost, succeeded=succeeded))


def _was(item: _Decided) -> dict[str, Any]:
    """The state that the row was read in, and how its counts change."""
    ending = item.ending
    return {
        "id": item.row.id,
        "was": item.row.status,
        "worker": item.row.worker,
        "release": item.row.release,
        "status": item.status,
        "returned": 0 if ending.called else 1,
        "counted": 1 if ending.counts and ending.called else 0,
        "cost_picos": ending.cost and ending.cost.picos,
        "currency": _currency(ending),
    }


def _currency(ending: Ending) -> str | None:
    """Whose sum the attempt's cost joins. Tokens at an unknown price leave no sum."""
    if ending.cost is not None:
        return ending.cost.currency
    return NO_SUM if ending.called and ending.usage is not None else None


def _finished(item: _Decided, leave_lead: bool) -> dict[str, Any]:
    ending, usage = item.ending, item.ending.usage
    resigns = leave_lead and item.status is Status.SUCCEEDED
    return {
        **_was(item),
        **_error(ending.failure if item.status is not Status.CANCELLED else None),
        "finished_at": ending.finished_at,
        "prompt_tokens": usage and usage.prompt_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "simulated": ending.simulated,
        "leads": item.row.leads and not resigns,
    }


def _error(failure: Failure | None) -> dict[str, Any]:
    if failure is None:
        return {}
    return {
        "error_type": failure.type,
        "error_code": failure.code,
        "error_message": seal(failure.message),
    }


def _requeued(item: _Decided) -> dict[str, Any]:
    ending = item.ending
    later = ending.called and ending.available_at is not None
    return {
        **_was(item),
        "hold": Hold.UNTIL if later else Hold.NONE,
        "available_at": ending.available_at if later else None,
        "avoid": orjson.dumps(ending.avoid).decode() if ending.avoid else None,
    }


def _repeats(
    conn: Connection, endings: Sequence[Ending], standing: dict[str, Status]
) -> dict[tuple[str, int], Status]:
    """What endings that did not hold were recorded as before, if they were."""
    known = recorded(conn, (ending.claimed for ending in endings if ending.called))
    return {
        (name, release): standing[name] if standing[name].ended else Status.QUEUED for name, release in known
    }


def _recorded(
    ending: Ending,
    decided: _Decided | None,
    given: Sequence[Given],
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
