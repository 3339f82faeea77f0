"""SQL that SQLite and PostgreSQL write differently: bulk inserts, upserts, many rows in one parameter, locks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson
import psycopg
from sqlalchemy import (
    ColumnClause,
    Connection,
    Engine,
    FromClause,
    Integer,
    Table,
    Text,
    bindparam,
    column,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement, GenericFunction
from sqlalchemy.types import TypeEngine

_POSTGRESQL = "postgresql"
_ADVISORY_LOCKS = text(
    "SELECT pg_advisory_xact_lock(:space, number)"
    " FROM (SELECT unnest(CAST(:numbers AS integer[])) AS number) AS ordered"
)
_SIZES = (512, 64, 8, 1)  # rows of one statement on SQLite
_RESERVE = text("SELECT nextval(pg_get_serial_sequence(:name, 'seq')) FROM generate_series(1, :count)")


def changes_many_tables(conn: Connection | Engine) -> bool:
    """Whether one statement can change several tables and return what it joined: PostgreSQL, by CTEs that write."""
    return conn.dialect.name == _POSTGRESQL


def hold_numbers(conn: Connection, space: int, numbers: Sequence[int]) -> None:
    """Lock these numbers of a space, in ascending order, until the transaction ends.

    Nothing to do on SQLite, where a writing transaction excludes all others.
    """
    if numbers and conn.dialect.name == _POSTGRESQL:
        conn.execute(_ADVISORY_LOCKS, {"space": space, "numbers": sorted(numbers)})


class byte_length(GenericFunction[int]):  # noqa: N801 - named as it is written in SQL
    """The length of a text in UTF-8, in bytes."""

    type = Integer()
    inherit_cache = True


@compiles(byte_length)
def _byte_length(element: byte_length, compiler: SQLCompiler, **options: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **options)})"


@compiles(byte_length, "sqlite")
def _byte_length_of_blob(element: byte_length, compiler: SQLCompiler, **options: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **options)} AS BLOB))"


def reserve(conn: Connection, table: Table, count: int) -> Sequence[int]:
    """Give out `count` ascending numbers for the table's `seq`, which nobody else will get."""
    if conn.dialect.name == _POSTGRESQL:
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
    if conn.dialect.name == _POSTGRESQL:
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


def insert_or(conn: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT that can be given an `on_conflict_...` clause."""
    return postgresql.insert(table) if conn.dialect.name == _POSTGRESQL else sqlite.insert(table)


ROWS = "rows"
_NAME = "wanted"


class _Records(FunctionElement[Any]):
    """The rows in one JSON parameter, as a table."""

    name = "records"
    inherit_cache = True

    def __init__(self, parameter: str, columns: Sequence[ColumnClause[Any]]) -> None:
        super().__init__(bindparam(parameter, type_=Text()))
        self.fields = columns


@compiles(_Records, "postgresql")
def _records(element: _Records, compiler: SQLCompiler, **options: Any) -> str:
    typed = ", ".join(f"{field.name} {field.type.compile(compiler.dialect)}" for field in element.fields)
    rows = compiler.process(element.clauses, **options)
    return f"(SELECT * FROM jsonb_to_recordset(CAST({rows} AS jsonb)) AS given({typed}))"  # noqa: S608  # columns of ours  # nosec B608


@compiles(_Records, "sqlite")
def _records_of_json_each(element: _Records, compiler: SQLCompiler, **options: Any) -> str:
    fields = ", ".join(f"json_extract(value, '$.{field.name}') AS {field.name}" for field in element.fields)
    rows = compiler.process(element.clauses, **options)
    return f"(SELECT {fields} FROM json_each({rows}))"  # noqa: S608  # columns of ours  # nosec B608


def recordset(parameter: str = ROWS, /, **columns: TypeEngine[Any]) -> FromClause:
    """Make a table `wanted` of the given columns; the statement is executed with `{ROWS: encode(...)}`.

    `parameter`: another name than ROWS, where one statement has several of them.
    """
    fields = [column(name, kind) for name, kind in columns.items()]
    return _Records(parameter, fields).table_valued(*fields, name=_NAME)


def encode(rows: Iterable[Mapping[str, Any]]) -> str:
    """Encode rows for a recordset's parameter."""
    listed = list(rows)
    try:
        encoded = orjson.dumps(listed)
    except TypeError:  # half of a surrogate pair, from a careless upstream
        encoded = orjson.dumps([_cleaned(row) for row in listed])
    if b"\\u0000" in encoded:
        encoded = orjson.dumps([_cleaned(row) for row in listed])
    return encoded.decode()


def clean(text: str) -> str:
    """Replace what PostgreSQL cannot store in a text: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _cleaned(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: clean(value) if isinstance(value, str) else value for key, value in row.items()}
