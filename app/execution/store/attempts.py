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

from sqlalchemy import (
    CTE,
    BigInteger,
    Connection,
    Delete,
    Row,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    delete,
    insert,
    literal_column,
    select,
    update,
)

from app.billing.domain.usage import UsageEntry
from app.billing.store.usage import USAGE, usage_entry, usage_rows, write_usage
from app.platform.dialects import ROWS, changes_many_tables, clean, encode, insert_rows, recordset
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd, Claimed, Outcome
from app.tasks.store.tables import attempt, task_content

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
