"""What is written beside a row that leaves `running`: its result, the attempt, what was used.

PostgreSQL gets it in one statement with the row's own change, as each more would be a round trip while rows are locked;
SQLite, which is no trip away, in a statement for each table.
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
    Table,
    Text,
    Update,
    bindparam,
    insert,
    select,
    update,
)

from app.billing.domain.usage import UsageEntry
from app.billing.store.usage import USAGE, usage_entry, usage_rows, write_usage
from app.execution.store.attempts import ATTEMPT, attempt_row, write_attempts
from app.platform.dialects import ROWS, encode, recordset
from app.platform.encryption import seal
from app.tasks.domain.attempt import AttemptEnd
from app.tasks.store.tables import attempt, task_content

LARGE = 262_144  # characters of a result, from which on it goes alone: as JSON within JSON it would be parsed twice

Change = tuple[Callable[[str], Update], Iterable[Mapping[str, Any]]]
"""A statement by dialect that takes a recordset, and the rows for it."""


@dataclass(frozen=True, slots=True)
class AttemptWrites:
    """Results as JSON by the number of their task, calls that were made, what they used."""

    results: Mapping[int, str]
    called: Sequence[AttemptEnd]
    used: Sequence[UsageEntry]

    def write(self, conn: Connection, changes: Sequence[Change]) -> None:
        """Carry out the changes of rows, of which there is at least one, and write this."""
        if conn.dialect.name == "postgresql":
            self._write_together(conn, changes)
        else:
            self._write_each(conn, changes)

    def _write_each(self, conn: Connection, changes: Sequence[Change]) -> None:
        for statement, rows in changes:
            conn.execute(statement(conn.dialect.name), {ROWS: encode(rows)})
        _write_results(conn, self.results)
        write_attempts(conn, self.called, time.time())
        write_usage(conn, self.used)

    def _write_together(self, conn: Connection, changes: Sequence[Change]) -> None:
        at = time.time()
        large = {number: json for number, json in self.results.items() if len(json) >= LARGE}
        small = {number: json for number, json in self.results.items() if number not in large}
        _write_results(conn, large)
        (statement, rows), *others = changes
        told = {
            ROWS: rows,
            "results": ({"number": number, "result": seal(json)} for number, json in small.items()),
            "attempts": (dict(zip(ATTEMPT, attempt_row(one, at), strict=True)) for one in self.called),
            "used": usage_rows(self.used),
        }
        conn.execute(_together(statement), {name: encode(listed) for name, listed in told.items()})
        for statement, rows in others:
            conn.execute(statement(conn.dialect.name), {ROWS: encode(rows)})


def _write_results(conn: Connection, results: Mapping[int, str]) -> None:
    if results:
        conn.execute(_RESULT, [{"number": number, "json": json} for number, json in results.items()])


_RESULT = (
    update(task_content).where(task_content.c.seq == bindparam("number")).values(result=bindparam("json"))
)


@cache
def _together(statement: Callable[[str], Update]) -> Update:
    wanted = recordset("postgresql", "results", number=BigInteger(), result=Text())
    results = (
        update(task_content)
        .where(task_content.c.seq == wanted.c.number)
        .values(result=wanted.c.result)
        .cte("results")
    )
    inserts = (_insert("attempts", attempt, ATTEMPT), _insert("used", usage_entry, USAGE))
    return statement("postgresql").add_cte(results, *inserts)


def _insert(name: str, table: Table, columns: Sequence[str]) -> CTE:
    wanted = recordset("postgresql", name, **{column: table.c[column].type for column in columns})
    return insert(table).from_select(columns, select(*(wanted.c[column] for column in columns))).cte(name)
