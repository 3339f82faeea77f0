"""How often a reload, and a new look at secrets, were asked for: what every process follows."""

from __future__ import annotations

from sqlalchemy import Connection, select

from app.platform.upsert import insert_or
from app.tasks.store.tables import configuration

_RELOADS, _SECRETS = 1, 2  # the rows there are, one for each count


def generation(conn: Connection) -> int:
    """The number of reloads so far."""
    return asked(conn)[0]


def asked(conn: Connection) -> tuple[int, int]:
    """How often a reload, and how often secrets, were asked for so far."""
    rows = conn.execute(select(configuration.c.id, configuration.c.generation))
    counts = {row.id: row.generation for row in rows}
    return counts.get(_RELOADS, 0), counts.get(_SECRETS, 0)


def ask_reload(conn: Connection, now: float) -> int:
    """Ask every process to read its configuration again, secrets included. Returns the new number."""
    _ask(conn, _RELOADS, now)
    return generation(conn)


def ask_secrets(conn: Connection, now: float) -> None:
    """Ask every process to resolve its secrets again, and nothing else."""
    _ask(conn, _SECRETS, now)


def _ask(conn: Connection, which: int, now: float) -> None:
    row = insert_or(conn, configuration).values(id=which, generation=1, asked_at=now)
    more = {"generation": configuration.c.generation + 1, "asked_at": now}
    conn.execute(row.on_conflict_do_update(index_elements=["id"], set_=more))
