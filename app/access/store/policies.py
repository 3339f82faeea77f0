"""Policies, as documents."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from app.access.store.access_tables import policy
from app.platform.upsert import insert_or


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One statement, as it was given."""

    id: str
    document: str  # JSON text
    created_at: float


def read_policies(conn: Connection) -> list[StoredPolicy]:
    """All of them, in the order in which they were made."""
    rows = conn.execute(select(policy.c.id, policy.c.document, policy.c.created_at).order_by(policy.c.seq))
    return [StoredPolicy(*row) for row in rows]


def write_policy(conn: Connection, policy_id: str, document: str, now: float) -> None:
    """Add one, or replace the one of that id."""
    insert = insert_or(conn, policy).values(id=policy_id, document=document, created_at=now)
    conn.execute(insert.on_conflict_do_update(index_elements=["id"], set_={"document": document}))


def delete_policy(conn: Connection, policy_id: str) -> bool:
    """Delete one; False: there was none."""
    return conn.execute(delete(policy).where(policy.c.id == policy_id)).rowcount > 0
