"""Whose API key is this?"""

from __future__ import annotations

import threading
from hmac import compare_digest

from app.access.domain.caller import ADMIN, Caller, hash_key, looks_like_key
from app.access.manage_clients import ensure_admin, read_limits
from app.access.store import clients
from app.access.store.clients import KeyRow
from app.platform.database import Database
from app.platform.domain.errors import Unauthenticated
from app.platform.ports import Clock

KEPT_SECONDS = 5.0  # how long a revoked key may go on being accepted
_MOST_KEYS = 10_000  # keys remembered at once


class Authenticate:
    """Turns API keys into callers. Found keys are remembered for a few seconds; unknown ones never."""

    def __init__(self, database: Database, clock: Clock, admin_key: str | None = None) -> None:
        self._database = database
        self._clock = clock
        self._admin_hash = hash_key(admin_key) if admin_key else None
        self._known: dict[str, tuple[Caller, float]] = {}
        self._lock = threading.Lock()

    def caller(self, authorization: str | None) -> Caller:
        """The caller behind an Authorization header. Raises Unauthenticated, DatabaseUnreachable."""
        return self.caller_of(_bearer(authorization))

    def caller_of(self, shown: str) -> Caller:
        """The caller behind an API key. Raises Unauthenticated, DatabaseUnreachable."""
        hashed = hash_key(shown)
        known = self._known.get(hashed)
        if known and known[1] > self._clock.monotonic():
            return known[0]
        caller = self._find(shown, hashed)
        self._remember(hashed, caller)
        return caller

    def forget(self) -> None:
        """Look all keys up again: this process has changed a client."""
        with self._lock:
            self._known.clear()

    def _find(self, shown: str, hashed: str) -> Caller:
        if self._admin_hash and compare_digest(hashed, self._admin_hash):
            ensure_admin(self._database, self._clock)
            return Caller(ADMIN, is_admin=True, granted_priority="high", key_id="environment")
        row = (
            self._database.read(lambda conn: clients.find_api_key(conn, hashed))
            if looks_like_key(shown)
            else None
        )
        caller = caller_by(row, self._clock.now())
        if caller is None:
            raise Unauthenticated("this API key is not known here", code="invalid_api_key")
        return caller

    def _remember(self, hashed: str, caller: Caller) -> None:
        with self._lock:
            if len(self._known) >= _MOST_KEYS:
                self._known.clear()
            self._known[hashed] = (caller, self._clock.monotonic() + KEPT_SECONDS)


def caller_by(row: KeyRow | None, now: float) -> Caller | None:
    """Who calls by a key; None where there is none, or it was revoked or has expired."""
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return None
    return Caller(
        row.client_id,
        row.is_admin,
        row.granted_priority,
        frozenset(row.scopes.split()),
        key_id=row.key_id,
        user=row.user_name or "",
        team=row.team or "",
        administers=row.administers or "",
        limits=read_limits(row.settings),
    )


def _bearer(authorization: str | None) -> str:
    scheme, _, shown = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not shown.strip():
        raise Unauthenticated(
            "an API key is needed: Authorization: Bearer pk_...",
            param="Authorization",
            code="missing_api_key",
        )
    return shown.strip()
