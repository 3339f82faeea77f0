"""A client's callback secret, rotated with an overlap, and its own callback headers."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from sqlalchemy import Connection, select, update

from app.access.domain.caller import make_callback_secret
from app.callbacks.domain.callback import check_headers
from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound
from app.platform.ports import Clock
from app.tasks.store.tables import client


def rotate_secret(conn: Connection, client_id: str, secret: str, until: float) -> bool:
    """Sign with `secret` from now on, and also with the present one until an instant.

    Another rotation before then ends that overlap: only the present secret and the new one remain.
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
    """Send these headers (a JSON object, or None) with a client's callbacks from now on. False: no such client."""
    statement = update(client).where(client.c.id == client_id).values(callback_headers=headers)
    return conn.execute(statement).rowcount > 0


OVERLAP_SECONDS = 24 * 3600.0  # during which callbacks carry both signatures


def rotate_callback_secret(
    database: Database, clock: Clock, client_id: str, chance: bytes, overlap_seconds: float = OVERLAP_SECONDS
) -> str:
    """Make a new secret from 32 random bytes and return it: the only time it is shown.

    Raises NotFound for an unknown client, DatabaseUnreachable.
    """
    secret = make_callback_secret(chance)
    until = clock.now() + overlap_seconds
    if not database.write(lambda conn: rotate_secret(conn, client_id, secret, until)):
        raise NotFound("no such client", code="client_not_found")
    return secret


def valid_secrets(database: Database, clock: Clock, client_id: str) -> list[str]:
    """What a client's callbacks are signed with now: its secret, and before it the previous one of a rotation.

    Raises NotFound for an unknown client, DatabaseUnreachable.
    """
    columns = (client.c.callback_secret, client.c.callback_secret_previous, client.c.callback_secret_until)
    asked = select(*columns).where(client.c.id == client_id)
    found = database.read(lambda conn: conn.execute(asked).one_or_none())
    if found is None:
        raise NotFound("no such client", code="client_not_found")
    secret, previous, until = found
    overlaps = previous is not None and (until or 0.0) > clock.now()
    return [previous, secret] if overlaps else [secret]


def set_callback_headers(database: Database, client_id: str, headers: Mapping[str, str]) -> None:
    """Replace a client's callback headers; an empty mapping removes them.

    Raises Invalid for a header that may not be set, NotFound for an unknown client, DatabaseUnreachable.
    """
    try:
        check_headers(headers)
    except ValueError as error:
        raise Invalid(str(error), param="callback_headers", code="invalid_callback_headers") from None
    text = orjson.dumps(dict(headers)).decode() if headers else None
    if not database.write(lambda conn: set_headers(conn, client_id, text)):
        raise NotFound("no such client", code="client_not_found")
