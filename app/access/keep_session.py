"""Sessions of browsers: an API key is shown once, a ticket stands for it from then on.

A ticket names the key and never holds it. It is worth as much as the key is at that moment: a key that is revoked or
expires, or an administrator's key that is changed, ends its sessions within seconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from hmac import compare_digest

from app.access.authenticate import KEPT_SECONDS, Authenticate, caller_by
from app.access.domain.caller import ADMIN, Caller, hash_key
from app.access.store import clients
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, Unauthenticated
from app.platform.ports import Clock

_MOST_TICKETS = 1000  # tickets remembered at once
_WITHOUT_DATABASE_SECONDS = 300.0  # how long a ticket is believed that cannot be looked up


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a session holds. `key_id` is empty for the administrator's key out of the environment."""

    key_id: str
    mark: str = ""  # of that key


class KeepSession:
    """The use case."""

    def __init__(
        self, database: Database, authenticate: Authenticate, clock: Clock, admin_key: str | None = None
    ) -> None:
        self._database = database
        self._authenticate = authenticate
        self._clock = clock
        self._admin_mark = _mark(admin_key) if admin_key else None
        self._known: dict[Ticket, tuple[Caller, float]] = {}

    def open(self, shown: str) -> Ticket:
        """The ticket for an API key. Raises Unauthenticated, DatabaseUnreachable."""
        caller = self._authenticate.caller_of(shown)
        if self._admin_mark and compare_digest(_mark(shown), self._admin_mark):
            return Ticket("", self._admin_mark)
        ticket = Ticket(caller.key_id)
        self._remember(ticket, caller)
        return ticket

    def caller(self, ticket: Ticket) -> Caller:
        """The caller behind a ticket. Raises Unauthenticated, DatabaseUnreachable."""
        if not ticket.key_id:
            return self._administrator(ticket)
        caller, found_at = self._known.get(ticket, (None, 0.0))
        age = self._clock.monotonic() - found_at
        if caller is not None and age < KEPT_SECONDS:
            return caller
        try:
            return self._remember(ticket, self._find(ticket))
        except DatabaseUnreachable:
            if caller is None or age > _WITHOUT_DATABASE_SECONDS:
                raise
            return caller  # the page that says what is wrong must be seen

    def _remember(self, ticket: Ticket, caller: Caller) -> Caller:
        if len(self._known) >= _MOST_TICKETS:
            self._known = {}
        self._known[ticket] = (caller, self._clock.monotonic())
        return caller

    def _administrator(self, ticket: Ticket) -> Caller:
        if self._admin_mark is None or not compare_digest(ticket.mark, self._admin_mark):
            raise _ended()
        return Caller(ADMIN, is_admin=True, granted_priority="high", key_id="environment")

    def _find(self, ticket: Ticket) -> Caller:
        row = self._database.read(lambda conn: clients.get_api_key(conn, ticket.key_id))
        caller = caller_by(row, self._clock.now())
        if caller is None:
            raise _ended()
        return caller


def _mark(key: str) -> str:
    return hashlib.sha256(b"session:" + hash_key(key).encode()).hexdigest()[:32]


def _ended() -> Unauthenticated:
    return Unauthenticated("this session has ended; sign in again", code="session_ended")
