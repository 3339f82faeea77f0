"""API keys by their ids: what a session in a browser stands on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from app.db.tables import api_key, client


def key_id_of(conn: Connection, hashed: str) -> str | None:
    """The id of the key with this hash."""
    return conn.execute(select(api_key.c.id).where(api_key.c.hash == hashed)).scalar()


def key_by_id(conn: Connection, key_id: str) -> Any:
    """A key's `client_id`, `scopes`, `expires_at`, `revoked_at`, `user_name`, and its client's `is_admin`,
    `granted_priority` and `team`."""
    columns = (
        api_key.c.client_id,
        api_key.c.scopes,
        api_key.c.expires_at,
        api_key.c.revoked_at,
        api_key.c.user_name,
    )
    found = select(*columns, client.c.is_admin, client.c.granted_priority, client.c.team)
    found = found.join(client, client.c.id == api_key.c.client_id).where(api_key.c.id == key_id)
    return conn.execute(found).first()
