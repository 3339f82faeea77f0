"""INSERT ... ON CONFLICT, which both databases spell alike and SQLAlchemy keeps apart."""

from __future__ import annotations

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or(conn: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT that can be given an `on_conflict_...` clause."""
    return postgresql.insert(table) if conn.dialect.name == "postgresql" else sqlite.insert(table)
