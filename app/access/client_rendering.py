"""Clients and their keys as JSON, over HTTP and on the command line alike."""

from __future__ import annotations

from typing import Any

from app.access.domain.client_limits import as_mapping
from app.access.manage_clients import read_limits
from app.access.store.clients import ClientRow, ListedKey
from app.platform.domain.times import to_rfc3339


def client_json(row: ClientRow) -> dict[str, Any]:
    """A client, without its secrets."""
    return {
        "id": row.id,
        "object": "client",
        "weight": row.weight,
        "granted_priority": row.granted_priority,
        "is_admin": bool(row.is_admin),
        "team": row.team,
        "administers": row.administers,
        "limits": as_mapping(read_limits(row.settings)),
        "created_at": to_rfc3339(row.created_at),
    }


def key_json(row: ListedKey) -> dict[str, Any]:
    """A key, without itself."""
    return {
        "id": row.id,
        "object": "api_key",
        "name": row.name,
        "user": row.user_name,
        "hint": row.hint,
        "scopes": row.scopes.split(),
        "created_at": to_rfc3339(row.created_at),
        "expires_at": None if row.expires_at is None else to_rfc3339(row.expires_at),
        "revoked_at": None if row.revoked_at is None else to_rfc3339(row.revoked_at),
    }
