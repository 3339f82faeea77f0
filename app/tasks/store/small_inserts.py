"""Few tasks in one statement: numbers, rows and contents, where COPY and its preparation are five."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, TextualSelect, text
from sqlalchemy.dialects import postgresql

from app.platform.recordset import ROWS, encode
from app.tasks.store.tables import task

FEW = 32  # tasks: above it COPY is as fast a way in


def insert_few(
    conn: Connection, status: str, columns: Mapping[str, Sequence[Any]], requests: Sequence[str]
) -> list[int]:
    """Insert tasks in this status, given column by column (`id` among them), and what they ask for; on PostgreSQL.

    Gives back their sequence numbers in order. Raises sqlalchemy.exc.IntegrityError when an id exists already.
    """
    names = (*columns, "request")
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), requests, strict=True))
    stored = conn.execute(_statement(tuple(columns)), {ROWS: encode(rows), "status": status})
    numbers: dict[str, int] = {row.id: row.seq for row in stored}
    return [numbers[name] for name in columns["id"]]


@lru_cache(64)
def _statement(names: tuple[str, ...]) -> TextualSelect:
    """One for each choice of columns: what holds nothing but defaults is left out. Names are those of our own table."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    typed = ", ".join(f"{name} {task.c[name].type.compile(dialect)}" for name in names)
    listed = ", ".join(names)
    statement = text(
        f"""
        WITH wanted AS MATERIALIZED (
            SELECT nextval(pg_get_serial_sequence('task', 'seq')) AS seq, given.*
            FROM json_to_recordset(CAST(:{ROWS} AS json)) AS given({typed}, request text)
        ), stored AS (
            INSERT INTO task (seq, status, {listed}) SELECT seq, :status, {listed} FROM wanted
        ), contents AS (
            INSERT INTO task_content (seq, request) SELECT seq, request FROM wanted
        )
        SELECT id, seq FROM wanted
        """  # noqa: S608  # nosec B608
    )
    return statement.columns(task.c.id, task.c.seq)  # told once, not asked of every answer
