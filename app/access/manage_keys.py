"""API keys: create, list, rotate with an overlap, revoke. A key is shown once; only its hash is stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.access.domain.caller import KEY_BYTES, make_key, parse_scopes
from app.access.manage_clients import Chance
from app.access.store import clients
from app.access.store.clients import ListedKey
from app.platform.database import Database
from app.platform.domain.errors import Conflict, Invalid, NotFound
from app.platform.domain.times import DAY
from app.platform.ports import Clock
from app.tasks.domain.task import new_id

OVERLAP_SECONDS = DAY  # during which both the old and the new key are valid
LONGEST_OVERLAP = 30 * DAY
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class KeyParams:
    """What a new key should be."""

    scopes: Sequence[str] = ("*",)
    expires_at: float | None = None  # Unix seconds
    name: str | None = None
    user: str | None = None  # who will hold it


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key at the only moment it is known."""

    shown: str
    row: ListedKey


def create_key(
    database: Database, clock: Clock, client_id: str, params: KeyParams, *, chance: Chance = os.urandom
) -> CreatedKey:
    """Give a client one more key. Raises Invalid, NotFound, DatabaseUnreachable."""
    scopes, now = _check(params, clock.now()), clock.now()
    return database.write(lambda conn: _insert(conn, client_id, params, scopes, now, chance))


def list_keys(database: Database, client_id: str) -> list[ListedKey]:
    """All keys of a client, oldest first, without the keys themselves. Raises NotFound."""

    def read(conn: Connection) -> list[ListedKey]:
        _must_exist(conn, client_id)
        return clients.list_api_keys(conn, client_id)

    return database.read(read)


def rotate_key(
    database: Database,
    clock: Clock,
    client_id: str,
    key_id: str,
    overlap_seconds: float = OVERLAP_SECONDS,
    *,
    chance: Chance = os.urandom,
) -> CreatedKey:
    """Make a key like an existing one, which ends after the overlap. Raises Invalid, NotFound, Conflict."""
    if not 0 <= overlap_seconds <= LONGEST_OVERLAP:
        raise Invalid("overlap: at most 30 days", param="overlap", code="invalid_value")
    now = clock.now()

    def rotate(conn: Connection) -> CreatedKey:
        old = _valid(conn, client_id, key_id, now)
        # The new key lives as long as the old one was made for: the rest of its life may be seconds.
        span = None if old.expires_at is None else now + (old.expires_at - old.created_at)
        params = KeyParams(old.scopes.split(), span, old.name, old.user_name)
        clients.expire_api_key(conn, client_id, key_id, now + overlap_seconds)
        return _insert(conn, client_id, params, old.scopes, now, chance)

    return database.write(rotate)


def revoke_key(database: Database, clock: Clock, client_id: str, key_id: str) -> None:
    """End a key now; processes that have it cached accept it for a few more seconds. Raises NotFound."""
    now = clock.now()
    if not database.write(lambda conn: clients.revoke_api_key(conn, client_id, key_id, now)):
        raise NotFound("no such valid key", param="key_id", code="key_not_found")


def _check(params: KeyParams, now: float) -> str:
    try:
        scopes = parse_scopes(params.scopes)
    except ValueError as error:
        raise Invalid(f"scopes: {error}", param="scopes", code="invalid_value") from None
    if params.expires_at is not None and params.expires_at <= now:
        raise Invalid("expires_at: must be in the future", param="expires_at", code="invalid_value")
    for param, text in (("name", params.name), ("user", params.user)):
        if text is not None and not (1 <= len(text) <= _LONGEST_NAME and text.isprintable()):
            raise Invalid(f"{param}: 1 to 64 printable characters", param=param, code="invalid_value")
    return " ".join(sorted(scopes))


def _insert(
    conn: Connection, client_id: str, params: KeyParams, scopes: str, now: float, chance: Chance
) -> CreatedKey:
    _must_exist(conn, client_id)
    key, key_id = make_key(chance(KEY_BYTES)), new_id("ak", now)
    more = {"expires_at": params.expires_at, "name": params.name, "user_name": params.user}
    clients.add_api_key(conn, key_id, client_id, key.hash, key.hint, now, scopes=scopes, **more)  # type: ignore[arg-type]
    row = ListedKey(
        key_id, client_id, params.name, params.user, key.hint, scopes, now, params.expires_at, None
    )
    return CreatedKey(key.shown, row)


def _must_exist(conn: Connection, client_id: str) -> None:
    if clients.get_client(conn, client_id) is None:
        raise NotFound(f"no client {client_id[:40]!r}", param="client_id", code="client_not_found")


def _valid(conn: Connection, client_id: str, key_id: str, now: float) -> ListedKey:
    found = next((key for key in clients.list_api_keys(conn, client_id) if key.id == key_id), None)
    if found is None:
        raise NotFound("the client has no such key; list its keys", param="key_id", code="key_not_found")
    if found.revoked_at is not None or (found.expires_at is not None and found.expires_at <= now):
        raise Conflict("the key is no longer valid; create a new one", param="key_id", code="key_ended")
    return found
