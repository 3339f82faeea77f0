"""A database without room: SQLite by max_page_count, PostgreSQL by writes that fail as on a full disk (53100)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from app.platform.database import Database

_NO_SPACE = (
    "CREATE OR REPLACE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
)
_TABLES = ("task", "task_content", "attempt")
_UNLIMITED = 1_073_741_823  # pages: SQLite's own bound


@contextmanager
def full_disk(database: Database) -> Iterator[None]:
    """Within, nothing that needs room can be written; what is large needs room for sure."""
    database.write(_fill)
    try:
        yield
    finally:
        database.write(_free)


def _fill(conn: Connection) -> None:
    if conn.dialect.name == "sqlite":
        # What was deleted has left pages that would be used again: a table takes all but a few of them.
        conn.exec_driver_sql("CREATE TABLE filler (bytes BLOB)")
        free = int(conn.exec_driver_sql("PRAGMA freelist_count").scalar_one())
        size = int(conn.exec_driver_sql("PRAGMA page_size").scalar_one()) - 4
        conn.exec_driver_sql(f"INSERT INTO filler VALUES (zeroblob({max(0, free - 10) * size}))")
        conn.exec_driver_sql("PRAGMA max_page_count=1")  # as many as there are: it never goes below
        return
    conn.exec_driver_sql(_NO_SPACE)
    for table in _TABLES:
        conn.exec_driver_sql(
            f"CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION no_space()"
        )


def _free(conn: Connection) -> None:
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(f"PRAGMA max_page_count={_UNLIMITED}")
        conn.exec_driver_sql("DROP TABLE filler")
        return
    for table in _TABLES:
        conn.exec_driver_sql(f"DROP TRIGGER no_space ON {table}")
