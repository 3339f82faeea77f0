"""Processes that hold connections or take files in: each beats while it does, so that its death is noticed."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, select, update

from app.platform.upsert import insert_or
from app.tasks.store.openai_tables import holder


def beat(conn: Connection, holder_id: str, now: float) -> None:
    """Say that a process lives; the first beat makes it known."""
    statement = insert_or(conn, holder).values(id=holder_id, beat=0, beat_at=now)
    again = {"beat": holder.c.beat + 1, "beat_at": now}
    conn.execute(statement.on_conflict_do_update(index_elements=["id"], set_=again))


def beats(conn: Connection) -> dict[str, int]:
    """The beat of each process on record."""
    return {row.id: row.beat for row in conn.execute(select(holder.c.id, holder.c.beat))}


def touch(conn: Connection, holder_ids: Collection[str]) -> None:
    """Write what stands in their rows: fails where they could not beat."""
    conn.execute(update(holder).where(holder.c.id.in_(holder_ids)).values(beat=holder.c.beat))


def drop(conn: Connection, holder_ids: Collection[str]) -> None:
    """Forget processes."""
    if holder_ids:
        conn.execute(delete(holder).where(holder.c.id.in_(holder_ids)))
