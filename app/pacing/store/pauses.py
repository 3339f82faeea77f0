"""What an operator has paused."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from app.platform.dialects import insert_or
from app.tasks.store.tables import pause


def load_pauses(conn: Connection) -> dict[str, float]:
    """All of them by subject, with the instant since when."""
    rows = conn.execute(select(pause.c.subject, pause.c.since).order_by(pause.c.subject))
    return {row.subject: row.since for row in rows}


def add_pause(conn: Connection, subject: str, now: float) -> None:
    """Pause a subject; one that is paused stays so, since when it was."""
    row = insert_or(conn, pause).values(subject=subject, since=now)
    conn.execute(row.on_conflict_do_nothing(index_elements=["subject"]))


def remove_pause(conn: Connection, subject: str) -> bool:
    """End a pause; False: there was none."""
    return conn.execute(delete(pause).where(pause.c.subject == subject)).rowcount > 0
