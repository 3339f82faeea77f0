"""Give a client another callback secret, without a moment in which its receivers accept nothing."""

from __future__ import annotations

from app.access.domain.access import make_callback_secret
from app.callbacks.store.callback_settings import rotate_secret
from app.platform.database import Database
from app.platform.domain.errors import NotFound
from app.platform.ports import Clock

OVERLAP_SECONDS = 24 * 3600.0  # during which callbacks carry both signatures


def rotate_callback_secret(
    database: Database,
    clock: Clock,
    client_id: str,
    chance: bytes,
    overlap_seconds: float = OVERLAP_SECONDS,
) -> str:
    """Make the new secret out of 32 random bytes and give it back: it is shown this once.

    Raises NotFound for an unknown client, DatabaseUnreachable.
    """
    secret = make_callback_secret(chance)
    until = clock.now() + overlap_seconds
    if not database.write(lambda conn: rotate_secret(conn, client_id, secret, until)):
        raise NotFound("there is no such client", code="client_not_found")
    return secret
