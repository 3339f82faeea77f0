"""Attempt rows, one for each upstream call, and what else is written when a row leaves `running`: result and usage.

PostgreSQL writes all of it in one statement with the row's own change, as each further one would be a round trip while
rows are locked; SQLite, which needs no round trip, in one statement per table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    Case,
    Connection,
    Delete,
    Double,
    FromClause,
    Integer,
    Row,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from app.billing.domain.usage import Heading, UsageEntry, call_figures, day_of
from app.billing.store.usage import USAGE, usage_entry, usage_rows, write_usage
from app.platform.dialects import ROWS, changes_many_tables, clean, encode, insert_rows, recordset
from app.platform.domain.money import NO_SUM
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd, Claimed, Outcome, TaskFailure
from app.tasks.domain.task import Hold, Status
from app.tasks.store.progress import hold_unless_paused
from app.tasks.store.tables import attempt, task, task_content
from app.tasks.store.transitions import requeued_columns

ATTEMPT = (
    "task_id",
    "client_id",
    "release",
    "worker",
    "key",
    "account",
    "upstream_model",
    "outcome",
    "counted",
    "started_at",
    "finished_at",
    "ready_at",
    "released_at",
    "sent_at",
    "first_byte_at",
    "recorded_at",
    "status_code",
    "error_message",
    "upstream_request_id",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_picos",
    "currency",
)
_UNKNOWN = (None,) * (len(ATTEMPT) - 11)


def write_attempts(conn: Connection, endings: Sequence[AttemptEnd], at: float) -> None:
    """Write calls that ended."""
    if endings:
        insert_rows(conn, attempt, ATTEMPT, (attempt_row(ending, at) for ending in endings))


def write_lost(conn: Connection, rows: Sequence[Row[Any]], at: float) -> None:
    """Write calls whose end is unknown: the running rows of a lost worker, as they were locked."""
    if rows:
        insert_rows(conn, attempt, ATTEMPT, (_lost(row, at) for row in rows))


def erase_lost(conn: Connection, claims: Iterable[Claimed]) -> None:
    """Delete the `lost` rows of calls that ended after all."""
    if parameters := list(map(_release, claims)):
        conn.execute(_erase(), {ROWS: encode(parameters)})


def recorded(conn: Connection, claims: Iterable[Claimed]) -> set[tuple[str, int]]:
    """Which of these calls (task id, release) their own worker has recorded as ended."""
    if parameters := list(map(_release, claims)):
        rows = conn.execute(_select(), {ROWS: encode(parameters)})
        return {(row.task_id, row.release) for row in rows}
    return set()


def attempt_row(ending: AttemptEnd, at: float) -> tuple[Any, ...]:
    """A call that ended and is recorded `at`, in the order of ATTEMPT."""
    claimed, permit, usage = ending.claimed, ending.claimed.permit, ending.usage
    return (
        permit.task_id,
        claimed.client_id,
        permit.release,
        claimed.worker,
        permit.key,
        permit.account,
        permit.upstream_model,
        ending.outcome.value,
        ending.counts,
        claimed.started_at,
        ending.finished_at,
        claimed.ready_at,
        permit.released_at,
        ending.sent_at,
        ending.first_byte_at,
        at,
        ending.status_code,
        seal(clean(ending.error_message)) if ending.error_message is not None else None,
        clean(ending.upstream_request_id) if ending.upstream_request_id is not None else None,
        usage and usage.prompt_tokens,
        usage and usage.completion_tokens,
        usage and usage.cached_tokens,
        usage and usage.reasoning_tokens,
        ending.cost and ending.cost.picos,
        ending.cost and ending.cost.currency,
    )


def _lost(row: Row[Any], at: float) -> tuple[Any, ...]:
    who = (row.id, row.client_id, row.release, row.worker, row.key, row.account, row.upstream_model)
    return (*who, Outcome.LOST.value, False, row.claimed_at, at, *_UNKNOWN)


def _release(claimed: Claimed) -> dict[str, Any]:
    permit = claimed.permit
    return {"task_id": permit.task_id, "release": permit.release, "worker": claimed.worker}


@cache
def _select() -> Select[Any]:
    wanted = recordset(task_id=Text(), release=BigInteger(), worker=Text())
    same = (
        (attempt.c.task_id == wanted.c.task_id)
        & (attempt.c.release == wanted.c.release)
        & (attempt.c.worker == wanted.c.worker)
    )
    found = select(attempt.c.seq, attempt.c.task_id, attempt.c.release).join(wanted, same)
    return found.where(attempt.c.outcome != literal_column(f"'{Outcome.LOST}'"))


@cache
def _erase() -> Delete:
    wanted = recordset(task_id=Text(), release=BigInteger(), worker=Text())
    same = (
        (attempt.c.task_id == wanted.c.task_id)
        & (attempt.c.release == wanted.c.release)
        & (attempt.c.worker == wanted.c.worker)
    )
    lost = select(attempt.c.seq).join(wanted, same)
    return delete(attempt).where(
        attempt.c.seq.in_(lost), attempt.c.outcome == literal_column(f"'{Outcome.LOST}'")
    )


LARGE = 262_144  # characters of a result above which it is sent alone: JSON within JSON is parsed twice

Change = tuple[Callable[[], Update], Iterable[Mapping[str, Any]]]
"""A statement that takes a recordset, and its rows."""


@dataclass(frozen=True, slots=True)
class AttemptWrites:
    """Results as JSON by task number, the calls that were made, and their usage."""

    results: Mapping[int, str]
    called: Sequence[AttemptEnd]
    used: Sequence[UsageEntry]

    def write(self, conn: Connection, changes: Sequence[Change]) -> None:
        """Apply the changes to rows, at least one, and write this."""
        if changes_many_tables(conn):
            self._write_together(conn, changes)
        else:
            self._write_each(conn, changes)

    def _write_each(self, conn: Connection, changes: Sequence[Change]) -> None:
        for statement, rows in changes:
            conn.execute(statement(), {ROWS: encode(rows)})
        _write_results(conn, self.results)
        write_attempts(conn, self.called, time.time())
        write_usage(conn, self.used)

    def _write_together(self, conn: Connection, changes: Sequence[Change]) -> None:
        at = time.time()
        large = {number: json for number, json in self.results.items() if len(json) >= LARGE}
        small = {number: json for number, json in self.results.items() if number not in large}
        _write_results(conn, large)
        (statement, rows), *others = changes
        recordsets = {
            ROWS: rows,
            "results": ({"number": number, "result": seal(json)} for number, json in small.items()),
            "attempts": (dict(zip(ATTEMPT, attempt_row(one, at), strict=True)) for one in self.called),
            "used": usage_rows(self.used),
        }
        conn.execute(_together(statement), {name: encode(listed) for name, listed in recordsets.items()})
        for statement, rows in others:
            conn.execute(statement(), {ROWS: encode(rows)})


def _write_results(conn: Connection, results: Mapping[int, str]) -> None:
    if results:
        conn.execute(_RESULT, [{"number": number, "json": json} for number, json in results.items()])


_RESULT = (
    update(task_content).where(task_content.c.seq == bindparam("number")).values(result=bindparam("json"))
)


@cache
def _together(statement: Callable[[], Update]) -> Update:
    wanted = recordset("results", number=BigInteger(), result=Text())
    results = (
        update(task_content)
        .where(task_content.c.seq == wanted.c.number)
        .values(result=wanted.c.result)
        .cte("results")
    )
    inserts = (_insert("attempts", attempt, ATTEMPT), _insert("used", usage_entry, USAGE))
    return statement().add_cte(results, *inserts)


def _insert(name: str, table: Table, columns: Sequence[str]) -> CTE:
    wanted = recordset(name, **{column: table.c[column].type for column in columns})
    return insert(table).from_select(columns, select(*(wanted.c[column] for column in columns))).cte(name)


def finished(ending: AttemptEnd, was: Status, status: Status, *, leads: bool) -> dict[str, Any]:
    """The row of an attempt that ends its task. `was`: the status read; `leads`: whether others keep following it."""
    usage = ending.usage
    return {
        **_was(ending, was, status),
        **_error(ending.failure if status is not Status.CANCELLED else None),
        "finished_at": ending.finished_at,
        "prompt_tokens": usage and usage.prompt_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "simulated": ending.simulated,
        "finish": ending.finish if status is not Status.CANCELLED else None,
        "leads": leads,
        "avoid": _notes(ending),
    }


def requeued(ending: AttemptEnd, was: Status, status: Status) -> dict[str, Any]:
    """The row of an attempt that sends its task back to the queue."""
    later = ending.called and ending.available_at is not None
    return {
        **_was(ending, was, status),
        "hold": Hold.UNTIL if later else Hold.NONE,
        "available_at": ending.available_at if later else None,
        "avoid": _notes(ending),
    }


def _notes(ending: AttemptEnd) -> str | None:
    return orjson.dumps(ending.avoid).decode() if ending.avoid else None


def used(ending: AttemptEnd, status: Status) -> UsageEntry:
    """The usage that the call adds."""
    permit = ending.claimed.permit
    heading = Heading(
        day_of(ending.finished_at),
        ending.claimed.client_id,
        ending.claimed.model,
        permit.key,
        permit.account,
        permit.upstream_model,
        ending.cost.currency if ending.cost else "",
    )
    return UsageEntry(heading, call_figures(ending.usage, ending.cost, succeeded=status is Status.SUCCEEDED))


def _was(ending: AttemptEnd, was: Status, status: Status) -> dict[str, Any]:
    """The state in which the row was read, and how its counts change."""
    return {
        "id": ending.claimed.permit.task_id,
        "was": was,
        "worker": ending.claimed.worker,
        "release": ending.claimed.permit.release,
        "status": status,
        "returned": 0 if ending.called else 1,
        "counted": 1 if ending.counts and ending.called else 0,
        "cost_picos": ending.cost and ending.cost.picos,
        "currency": _currency(ending),
    }


def _currency(ending: AttemptEnd) -> str | None:
    """The currency that the attempt's cost is in. Tokens at an unknown price make the sum unknown."""
    if ending.cost is not None:
        return ending.cost.currency
    return NO_SUM if ending.called and ending.usage is not None else None


def _error(failure: TaskFailure | None) -> dict[str, Any]:
    if failure is None:
        return {}
    return {
        "error_type": failure.type,
        "error_code": failure.code,
        "error_message": seal(failure.message),
    }


_WAS: dict[str, TypeEngine[Any]] = {
    "id": Text(),
    "was": Text(),
    "worker": Text(),
    "release": BigInteger(),
    "status": Text(),
    "returned": Integer(),
    "counted": Integer(),
    "cost_picos": BigInteger(),
    "currency": Text(),
}
_RESULT_COLUMNS: dict[str, TypeEngine[Any]] = {
    "finished_at": Double(),
    "error_type": Text(),
    "error_code": Text(),
    "error_message": Text(),
    "prompt_tokens": Integer(),
    "completion_tokens": Integer(),
    "cached_tokens": Integer(),
    "reasoning_tokens": Integer(),
    "simulated": Boolean(),
    "finish": Text(),
    "leads": Boolean(),
    "avoid": Text(),
}
FINISHED: Mapping[str, TypeEngine[Any]] = {**_WAS, **_RESULT_COLUMNS}


def _update(wanted: FromClause) -> Update:
    """From the state that was read. Counts change in the same way whether the task ends or not."""
    spent = func.coalesce(task.c.cost_picos, 0) + wanted.c.cost_picos
    currency = _currency_after(wanted)
    return (
        update(task)
        .where(
            task.c.id == wanted.c.id,
            task.c.status == wanted.c.was,
            task.c.worker == wanted.c.worker,
            task.c.release == wanted.c.release,
        )
        .values(
            status=wanted.c.status,
            attempts=task.c.attempts - wanted.c.returned,
            counted=task.c.counted + wanted.c.counted,
            cost_picos=case((currency == NO_SUM, null()), else_=func.coalesce(spent, task.c.cost_picos)),
            currency=currency,
        )
    )


def _currency_after(wanted: FromClause) -> Case[Any]:
    """The task's currency after this attempt: NO_SUM once there are two, or an unknown price."""
    first = task.c.currency.is_(None) | (task.c.currency == wanted.c.currency)
    return case(
        (wanted.c.currency.is_(None), task.c.currency), (first, wanted.c.currency), else_=literal(NO_SUM)
    )


def finish(wanted: FromClause) -> Update:
    """End tasks. `wanted` has the columns FINISHED."""
    return _update(wanted).values({name: wanted.c[name] for name in _RESULT_COLUMNS})


@cache
def finish_statement() -> Update:
    """`finish` for a recordset."""
    return finish(recordset(**FINISHED))


@cache
def requeue_statement() -> Update:
    """Back to the front of its queue, without its `release`, so that nothing late can match it."""
    wanted = recordset(hold=Integer(), available_at=Double(), avoid=Text(), **_WAS)
    unsent = wanted.c.returned == 1
    return _update(wanted).values(
        hold=hold_unless_paused(wanted.c.hold),
        available_at=func.coalesce(wanted.c.available_at, task.c.available_at),
        avoid=case((unsent, task.c.avoid), else_=wanted.c.avoid),
        started_at=case((unsent & (task.c.attempts == 1), null()), else_=task.c.started_at),
        **requeued_columns(),
    )
