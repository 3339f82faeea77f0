"""Inserts of many rows, by each database's fastest way in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import psycopg
from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import DBAPIError

_SIZES = (512, 64, 8, 1)  # rows of one statement on SQLite
_RESERVE = text("SELECT nextval(pg_get_serial_sequence(:name, 'seq')) FROM generate_series(1, :count)")


def reserve(conn: Connection, table: Table, count: int) -> Sequence[int]:
    """Give out `count` ascending numbers for the table's `seq`, which nobody else will get."""
    if conn.dialect.name == "postgresql":
        return conn.execute(_RESERVE, {"name": table.name, "count": count}).scalars().all()
    # Nobody else writes until this transaction ends.
    highest = f"SELECT coalesce(max(seq), 0) FROM {table.name}"  # noqa: S608  # our own table  # nosec B608
    last: int = conn.exec_driver_sql(highest).scalar_one()
    return range(last + 1, last + 1 + count)


def insert_rows(
    conn: Connection, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert tuples in the order of `columns`: COPY on PostgreSQL, many rows a statement on SQLite.

    Values are of the columns' own types, without NUL in texts. Raises SQLAlchemy's errors.
    """
    names = ", ".join(map(conn.dialect.identifier_preparer.quote, columns))
    if not conn.in_transaction():
        conn.begin()  # SQLAlchemy would not know of a transaction in which nothing but this was done
    driver: Any = conn.connection.dbapi_connection
    if conn.dialect.name == "postgresql":
        statement = f"COPY {table.name} ({names}) FROM STDIN"
        insert = _copy
    else:
        statement = f"INSERT INTO {table.name} ({names}) VALUES "  # noqa: S608  # nosec B608
        insert = _execute
    try:
        insert(driver, statement, rows)
    except (psycopg.Error, sqlite3.Error) as error:
        raise _wrapped(conn, driver, statement, error) from error


def _copy(driver: Any, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _execute(driver: sqlite3.Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """A few sizes of statement, so that each is parsed once.

    Not `executemany`: it lets go of the interpreter for every row, and takes 5 ms to get it back from a busy thread.
    """
    listed = list(rows)
    done, columns = 0, len(listed[0]) if listed else 1
    most = driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // columns
    places = f"({', '.join('?' * columns)})"
    for size in _SIZES:
        while size <= most and len(listed) - done >= size:
            values = list(chain.from_iterable(listed[done : done + size]))
            driver.execute(statement + ", ".join([places] * size), values)
            done += size


def _wrapped(conn: Connection, driver: Any, statement: str, error: Exception) -> BaseException:
    """SQLAlchemy's word for a driver's error: it was not asked here."""
    lost = isinstance(error, psycopg.Error) and (driver.closed or driver.broken)
    if lost:
        conn.invalidate(error)
    base = psycopg.Error if isinstance(error, psycopg.Error) else sqlite3.Error
    return DBAPIError.instance(
        statement, None, error, base, connection_invalidated=lost, dialect=conn.dialect
    )
