"""What the leader keeps in the database: estimated limits, and what an operator has paused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, delete, select

from app.platform.dialects import insert_or
from app.tasks.store.tables import learned, pause


def load_learned(conn: Connection) -> dict[str, dict[str, Any]]:
    """Estimates by quota; unreadable ones are left out."""
    found = {}
    for row in conn.execute(select(learned.c.quota, learned.c.figures)):
        try:
            found[row.quota] = orjson.loads(row.figures)
        except orjson.JSONDecodeError:
            continue
    return found


def save_learned(conn: Connection, figures: Mapping[str, Mapping[str, Any]], now: float) -> None:
    """Store estimates, in the order of their quotas so that two writers never deadlock."""
    for quota in sorted(figures):
        values = {"quota": quota, "figures": orjson.dumps(figures[quota]).decode(), "updated_at": now}
        statement = insert_or(conn, learned).values(values)
        changed = {"figures": values["figures"], "updated_at": now}
        conn.execute(statement.on_conflict_do_update(index_elements=["quota"], set_=changed))


def load_pauses(conn: Connection) -> dict[str, float]:
    """Pauses by subject, with their start (Unix seconds)."""
    rows = conn.execute(select(pause.c.subject, pause.c.since).order_by(pause.c.subject))
    return {row.subject: row.since for row in rows}


def add_pause(conn: Connection, subject: str, now: float) -> None:
    """Pause a subject; one that is paused keeps its start."""
    row = insert_or(conn, pause).values(subject=subject, since=now)
    conn.execute(row.on_conflict_do_nothing(index_elements=["subject"]))


def remove_pause(conn: Connection, subject: str) -> bool:
    """End a pause. Returns whether there was one."""
    return conn.execute(delete(pause).where(pause.c.subject == subject)).rowcount > 0
