"""How a client wants its callbacks: the secret they are signed with (two while it is rotated), own headers."""

from __future__ import annotations

from sqlalchemy import Connection, update

from app.tasks.store.tables import client


def rotate_secret(conn: Connection, client_id: str, secret: str, until: float) -> bool:
    """Sign with `secret` from now on, and with the present one as well until an instant.

    A rotation before the end of the last one ends that overlap: the secret before the present one is gone.
    False: there is no such client.
    """
    statement = (
        update(client)
        .where(client.c.id == client_id)
        .values(
            callback_secret_previous=client.c.callback_secret,
            callback_secret_until=until,
            callback_secret=secret,
        )
    )
    return conn.execute(statement).rowcount > 0


def set_headers(conn: Connection, client_id: str, headers: str | None) -> bool:
    """Put these headers (JSON object, or None) on a client's callbacks from now on. False: no such client."""
    statement = update(client).where(client.c.id == client_id).values(callback_headers=headers)
    return conn.execute(statement).rowcount > 0
