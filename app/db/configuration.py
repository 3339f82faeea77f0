"""How often a reload was asked for: what every process follows."""

from __future__ import annotations

from sqlalchemy import Connection, select

from app.db.tables import configuration
from app.db.upsert import insert_or

_ROW = 1  # there is one


def generation(conn: Connection) -> int:
    """The number of reloads so far."""
    return conn.execute(select(configuration.c.generation)).scalar() or 0


def ask_reload(conn: Connection, now: float) -> int:
    """Ask every process to read its configuration again. Gives back the new number."""
    row = insert_or(conn, configuration).values(id=_ROW, generation=1, asked_at=now)
    more = {"generation": configuration.c.generation + 1, "asked_at": now}
    conn.execute(row.on_conflict_do_update(index_elements=["id"], set_=more))
    return generation(conn)
