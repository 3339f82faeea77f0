"""Clients: add, change, list, show as JSON. A team administrator's clients share that administrator's limits.

The settings of a client are one JSON object in its row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection

from app.access.domain.caller import (
    ADMIN,
    ALL,
    KEY_BYTES,
    MOST_CLIENTS,
    NO_LIMITS,
    SECRET_BYTES,
    ClientLimits,
    ClientRow,
    as_mapping,
    is_slug,
    make_callback_secret,
    make_key,
    parse_limits,
    share,
    too_small,
)
from app.access.domain.policy import AccessPolicy, grants_by_name
from app.access.store import clients
from app.access.store.clients import ListedKey
from app.platform.database import Database
from app.platform.domain.errors import Conflict, Forbidden, Invalid, NotFound
from app.platform.domain.times import to_rfc3339
from app.platform.ports import Clock
from app.tasks.domain.task import Priority, new_id


@lru_cache(4096)
def read_limits(settings: str | None) -> ClientLimits:
    """The limits in a client's settings."""
    return NO_LIMITS if settings is None else parse_limits(orjson.loads(settings).get("limits", {}))


def read_added_by(settings: str | None) -> str | None:
    """The team administrator whose weight and limits a client shares; None: it has its own."""
    return None if settings is None else orjson.loads(settings).get("added_by")


def write_limits(limits: ClientLimits, added_by: str | None = None) -> str | None:
    """Settings with these limits, as JSON text; None if they are the default."""
    values = as_mapping(limits)
    settings = {"limits": values} if values else {}
    if added_by is not None:
        settings["added_by"] = added_by  # type: ignore[assignment]
    return orjson.dumps(settings).decode() if settings else None


def check_limits(given: Mapping[str, Any]) -> ClientLimits:
    """Parse limits. Raises Invalid that names the limit."""
    try:
        return parse_limits(given)
    except ValueError as error:
        name, _, rest = str(error).partition(":")
        raise Invalid(f"limits.{name}:{rest}", param=f"limits.{name}", code="invalid_value") from None


def give_share(conn: Connection, admin: str) -> None:
    """Give the newest client its share of its administrator's limits. Raises Forbidden if too small."""
    clients.lock_client(conn, admin)
    chief, mine, _ = _read(conn, admin)
    if len(mine) > MOST_CLIENTS:
        raise Forbidden(
            f"a team administrator may add at most {MOST_CLIENTS} clients; ask an administrator of the service",
            code="too_many_clients",
        )
    limit = too_small(read_limits(chief.settings), len(mine)) if chief else None
    if limit is not None:
        raise Forbidden(
            f"limits.{limit}: too small to share among {len(mine)} clients; ask an administrator of the service",
            param=f"limits.{limit}",
            code="nothing_left_to_share",
        )
    share_among(conn, admin)


def share_among(conn: Connection, admin: str) -> None:
    """Give all clients of a team administrator equal shares of its present weight and limits."""
    chief, mine, team = _read(conn, admin)
    if chief is None or not mine:
        return
    limits = share(read_limits(chief.settings), [read_limits(row.settings) for row in team], len(mine))
    low = chief.granted_priority == Priority.LOW
    for row in mine:
        priority = Priority.LOW if low else row.granted_priority
        weight, settings = chief.weight / len(mine), write_limits(limits, admin)
        clients.change_client(conn, row.id, weight=weight, granted_priority=priority, settings=settings)


def check_name(policies: Iterable[AccessPolicy], name: str) -> None:
    """Refuse a name by which a policy would allow more to a team administrator's new client. Raises Forbidden."""
    if any(grants_by_name(policy, name) for policy in policies):
        raise Forbidden(
            f"id: a policy names {name!r}; choose another, or ask an administrator of the service",
            param="id",
            code="not_an_administrator",
        )


def _read(conn: Connection, admin: str) -> tuple[ClientRow | None, Sequence[ClientRow], Sequence[ClientRow]]:
    """The administrator, the clients that share its limits, and the others of its team."""
    rows = clients.list_clients(conn)
    chief = next((row for row in rows if row.id == admin), None)
    mine = [row for row in rows if read_added_by(row.settings) == admin]
    names = {admin, *(row.id for row in mine)}
    team = [row for row in rows if chief and row.team == chief.administers and row.id not in names]
    return chief, mine, team


_TEAM = re.compile(r"[A-Za-z0-9_-]{1,40}")
Chance = Callable[[int], bytes]  # returns so many random bytes


@dataclass(frozen=True, slots=True)
class CreatedClient:
    """A client at the only moment its secrets are known."""

    id: str
    api_key: str  # pk_...
    callback_secret: str  # whsec_...


def add_client(
    database: Database,
    clock: Clock,
    name: str,
    *,
    weight: float = 1.0,
    granted_priority: str = Priority.NORMAL,
    is_admin: bool = False,
    team: str | None = None,
    administers: str | None = None,
    limits: ClientLimits = NO_LIMITS,
    scopes: Collection[str] = (ALL,),
    added_by: str | None = None,
    chance: Chance = os.urandom,
) -> CreatedClient:
    """Add a client with one API key of these scopes; both secrets are returned only this once.

    `added_by`: the team administrator whose weight and limits it shares. Raises Invalid for a bad name, weight or
    priority, Conflict if the name is taken, Forbidden if the limits cannot be split further, DatabaseUnreachable.
    """
    _check(name, weight, granted_priority)
    check_team(team, "team")
    check_team(administers, "administers")
    key, secret, now = make_key(chance(KEY_BYTES)), make_callback_secret(chance(SECRET_BYTES)), clock.now()

    def add(conn: Connection) -> bool:
        added = clients.add_client(
            conn,
            name,
            secret,
            now,
            weight=weight,
            granted_priority=granted_priority,
            is_admin=is_admin,
            settings=write_limits(limits, added_by),
            team=team,
            administers=administers,
        )
        if added:
            scope_text = " ".join(sorted(scopes))
            clients.add_api_key(conn, new_id("ak", now), name, key.hash, key.hint, now, scopes=scope_text)
        if added and added_by is not None:
            give_share(conn, added_by)
        return added

    if not database.write(add):
        raise Conflict(f"client {name!r} already exists; choose another id", param="id", code="client_exists")
    return CreatedClient(name, key.shown, secret)


def add_key(database: Database, clock: Clock, name: str, *, chance: Chance = os.urandom) -> str:
    """Give a client one more API key, returned only this once. Raises NotFound, DatabaseUnreachable."""
    key, now = make_key(chance(KEY_BYTES)), clock.now()

    def add(conn: Connection) -> bool:
        known = clients.get_client(conn, name) is not None
        if known:
            clients.add_api_key(conn, new_id("ak", now), name, key.hash, key.hint, now)
        return known

    if not database.write(add):
        raise NotFound(f"no client {name!r}", param="name", code="client_not_found")
    return key.shown


def get_client(database: Database, name: str) -> ClientRow:
    """One client, without its secrets. Raises NotFound, DatabaseUnreachable."""
    row = database.read(lambda conn: clients.get_client(conn, name))
    if row is None:
        raise NotFound(f"no client {name[:40]!r}", param="client_id", code="client_not_found")
    return row


def change_client(database: Database, name: str, changes: Mapping[str, Any]) -> ClientRow:
    """Set the fields of `changes`: weight, granted_priority, team, administers, limits (ClientLimits).

    A client whose weight or limits are set stops sharing its administrator's; clients that share its own follow.
    Raises Invalid, NotFound, DatabaseUnreachable.
    """
    before = get_client(database, name)
    _check(
        name, changes.get("weight", before.weight), changes.get("granted_priority", before.granted_priority)
    )
    for field in ("team", "administers"):
        check_team(changes.get(field), field)
    values = {key: value for key, value in changes.items() if key != "limits"}
    if "limits" in changes or "weight" in changes:
        values["settings"] = write_limits(changes.get("limits", read_limits(before.settings)))

    def change(conn: Connection) -> None:
        clients.change_client(conn, name, **values)
        share_among(conn, name)

    if values:
        database.write(change)
    return get_client(database, name)


def list_clients(database: Database) -> list[ClientRow]:
    """All clients by name, without their secrets."""
    return database.read(clients.list_clients)


def ensure_admin(database: Database, clock: Clock, *, chance: Chance = os.urandom) -> None:
    """Add the administrator's client unless it exists. Its key comes from the environment and is never stored."""
    if database.read(lambda conn: clients.get_client(conn, ADMIN)) is not None:
        return
    secret, now = make_callback_secret(chance(SECRET_BYTES)), clock.now()
    database.write(
        lambda conn: clients.add_client(
            conn, ADMIN, secret, now, granted_priority=Priority.HIGH, is_admin=True
        )
    )


def check_team(name: str | None, param: str) -> None:
    """Check a team's name. Raises Invalid."""
    if name is not None and _TEAM.fullmatch(name) is None:
        raise Invalid(
            f"{param}: must be 1 to 40 of a-z, A-Z, 0-9, - and _", param=param, code="invalid_value"
        )


def _check(name: str, weight: float, granted_priority: str) -> None:
    if not is_slug(name):
        raise Invalid("id: must be 1 to 40 of a-z, 0-9, _ and -", param="id", code="invalid_value")
    if not 0 < weight <= 1000:
        raise Invalid("weight: must be above 0 and at most 1000", param="weight", code="invalid_value")
    if granted_priority not in set(Priority):
        raise Invalid("granted_priority: must be high, normal or low", param="granted_priority")


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
