"""Clients and their API keys."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, insert, null, select, update

from app.access.domain.caller import ClientRow
from app.platform.dialects import insert_or
from app.tasks.store.tables import api_key, client


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key, with what a request needs of its client. It may be revoked or expired: check."""

    key_id: str
    client_id: str
    scopes: str  # separated by spaces
    expires_at: float | None
    revoked_at: float | None
    is_admin: bool
    granted_priority: str
    weight: float
    settings: str | None  # JSON text
    team: str | None
    administers: str | None
    user_name: str | None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """An API key, as its owner may see it."""

    id: str
    client_id: str
    name: str | None
    user_name: str | None
    hint: str  # its last four characters
    scopes: str  # separated by spaces
    created_at: float
    expires_at: float | None
    revoked_at: float | None


def add_client(
    conn: Connection,
    client_id: str,
    callback_secret: str,
    now: float,
    *,
    weight: float = 1.0,
    granted_priority: str = "normal",
    is_admin: bool = False,
    callback_headers: str | None = None,
    settings: str | None = None,
    team: str | None = None,
    administers: str | None = None,
) -> bool:
    """Add a client; False if the slug is taken, and nothing was changed."""
    row = insert_or(conn, client).values(
        id=client_id,
        callback_secret=callback_secret,
        created_at=now,
        weight=weight,
        granted_priority=granted_priority,
        is_admin=is_admin,
        callback_headers=callback_headers,
        settings=settings,
        team=team,
        administers=administers,
    )
    added = row.on_conflict_do_nothing(index_elements=["id"]).returning(client.c.id)
    return conn.execute(added).first() is not None


def get_client(conn: Connection, client_id: str) -> ClientRow | None:
    """One client."""
    row = conn.execute(_CLIENTS.where(client.c.id == client_id)).first()
    return None if row is None else ClientRow(*row)


def lock_client(conn: Connection, client_id: str) -> None:
    """Lock a client until this transaction ends. SQLite has one writer and needs no lock."""
    conn.execute(select(client.c.id).where(client.c.id == client_id).with_for_update(key_share=True))


def list_clients(conn: Connection) -> list[ClientRow]:
    """All clients by their slugs."""
    return [ClientRow(*row) for row in conn.execute(_CLIENTS.order_by(client.c.id))]


def add_api_key(
    conn: Connection,
    key_id: str,
    client_id: str,
    hash: str,  # noqa: A002
    hint: str,
    now: float,
    *,
    scopes: str = "*",
    expires_at: float | None = None,
    name: str | None = None,
    user_name: str | None = None,
) -> None:
    """Add an API key: `hash` is its SHA-256 in hexadecimal, `hint` its last four characters.

    Raises sqlalchemy.exc.IntegrityError for an unknown client.
    """
    values = {"hash": hash, "hint": hint, "scopes": scopes, "created_at": now, "expires_at": expires_at}
    names = {"name": name, "user_name": user_name}
    conn.execute(insert(api_key).values(id=key_id, client_id=client_id, **values, **names))


def change_client(conn: Connection, client_id: str, **values: Any) -> bool:
    """Set columns of a client; False: no such client."""
    return conn.execute(update(client).where(client.c.id == client_id).values(**values)).rowcount > 0


def list_api_keys(conn: Connection, client_id: str) -> list[ListedKey]:
    """A client's keys, oldest first, including those no longer valid."""
    found = select(*_LISTED).where(api_key.c.client_id == client_id)
    return [ListedKey(*row) for row in conn.execute(found.order_by(api_key.c.created_at, api_key.c.id))]


def expire_api_key(conn: Connection, client_id: str, key_id: str, at: float) -> bool:
    """End a key at an instant, unless it ends earlier; False: the client has no such valid key."""
    mine = (api_key.c.id == key_id) & (api_key.c.client_id == client_id) & api_key.c.revoked_at.is_(null())
    sooner = case((api_key.c.expires_at < at, api_key.c.expires_at), else_=at)
    return conn.execute(update(api_key).where(mine).values(expires_at=sooner)).rowcount > 0


def find_api_key(conn: Connection, hash: str) -> KeyRow | None:  # noqa: A002
    """The key with this hash, and its client."""
    return _key(conn, api_key.c.hash == hash)


def get_api_key(conn: Connection, key_id: str) -> KeyRow | None:
    """The key with this id, and its client."""
    return _key(conn, api_key.c.id == key_id)


def _key(conn: Connection, which: ColumnElement[bool]) -> KeyRow | None:
    found = select(*_KEY).join(client, client.c.id == api_key.c.client_id)
    row = conn.execute(found.where(which)).first()
    return None if row is None else KeyRow(*row)


def revoke_api_key(conn: Connection, client_id: str, key_id: str, now: float) -> bool:
    """Revoke a client's key; False if it has no such key, or it is revoked already."""
    mine = (api_key.c.id == key_id) & (api_key.c.client_id == client_id)
    valid = mine & api_key.c.revoked_at.is_(null())
    return conn.execute(update(api_key).where(valid).values(revoked_at=now)).rowcount > 0


_COLUMNS: list[Any] = [client.c[field.name] for field in fields(ClientRow)]
_CLIENTS = select(*_COLUMNS)
_LISTED: list[Any] = [api_key.c[field.name] for field in fields(ListedKey)]
_KEY: list[Any] = [
    api_key.c.id,
    api_key.c.client_id,
    api_key.c.scopes,
    api_key.c.expires_at,
    api_key.c.revoked_at,
    client.c.is_admin,
    client.c.granted_priority,
    client.c.weight,
    client.c.settings,
    client.c.team,
    client.c.administers,
    api_key.c.user_name,
]
