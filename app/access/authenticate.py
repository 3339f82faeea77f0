"""Who calls and from where: an API key, or the ticket of a browser session, turned into its caller.

The context of a call is set where a request comes in, read by use cases, and empty in background threads.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest

import orjson
from sqlalchemy import Connection, delete, select

from app.access.domain.caller import ADMIN, Caller, hash_key, looks_like_key
from app.access.manage_clients import ensure_admin, read_limits
from app.access.store import clients
from app.access.store.access_tables import ended_session
from app.access.store.clients import KeyRow
from app.platform.database import Database
from app.platform.dialects import insert_or
from app.platform.domain.errors import DatabaseUnreachable, Unauthenticated
from app.platform.domain.url_rules import Address, Network, parse_address
from app.platform.ports import Clock

CACHE_SECONDS = 5.0  # how long a revoked key may still be accepted
_MOST_KEYS = 10_000  # cached keys


class Authenticate:
    """Turns API keys into callers. Known keys are cached for a few seconds, unknown ones never.

    One for each process, used by all request threads. The lock guards changes of the cache; reads take no lock.
    """

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
        """Drop the cache: this process has changed a client."""
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
            raise Unauthenticated(_refusal(shown), code="invalid_api_key")
        return caller

    def _remember(self, hashed: str, caller: Caller) -> None:
        with self._lock:
            if len(self._known) >= _MOST_KEYS:
                self._known.clear()
            self._known[hashed] = (caller, self._clock.monotonic() + CACHE_SECONDS)


def caller_by(row: KeyRow | None, now: float) -> Caller | None:
    """The caller of a key; None if there is no such key, or it was revoked or has expired."""
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
            "an API key is required: Authorization: Bearer pk_... (or pk_... in api-key or x-api-key)",
            param="Authorization",
            code="missing_api_key",
        )
    return shown.strip()


_MOST_TICKETS = 1000  # cached tickets
_WITHOUT_DATABASE_SECONDS = 300.0  # how long a known ticket holds while the database is away


SESSION_SECONDS = 12 * 3600


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a session cookie holds: the id of a key, never the key.

    `key_id` is empty for the administrator's key from the environment.
    """

    key_id: str
    mark: str = ""  # a digest of that key
    session: str = ""  # random, so that one session can end without the key's others


class KeepSession:
    """Browser sessions: an API key is shown once, a ticket stands for it from then on.

    A ticket is worth as much as its key is at that moment: revoke or expire the key, or change the administrator's, and
    its sessions end within seconds. Used by all request threads; replacing one entry or the whole dictionary is atomic.
    """

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
        session = secrets.token_urlsafe(18)
        if self._admin_mark and compare_digest(_mark(shown), self._admin_mark):
            ticket = Ticket("", self._admin_mark, session)
        else:
            ticket = Ticket(caller.key_id, "", session)
        self._remember(ticket, caller)
        return ticket

    def end(self, ticket: Ticket) -> None:
        """End a session, and with it every copy of its cookie: here at once, in other processes within seconds.

        Raises DatabaseUnreachable.
        """
        now = self._clock.now()
        ended = {"id": ticket.session, "ended_at": now}

        def write(conn: Connection) -> None:
            conn.execute(delete(ended_session).where(ended_session.c.ended_at < now - SESSION_SECONDS))
            conn.execute(insert_or(conn, ended_session).values(ended).on_conflict_do_nothing())

        self._database.write(write)
        self._known.pop(ticket, None)

    def caller(self, ticket: Ticket) -> Caller:
        """The caller behind a ticket. Raises Unauthenticated, DatabaseUnreachable."""
        caller, found_at = self._known.get(ticket, (None, 0.0))
        age = self._clock.monotonic() - found_at
        if caller is not None and age < CACHE_SECONDS:
            return caller
        try:
            return self._remember(ticket, self._find(ticket))
        except DatabaseUnreachable:
            if not ticket.key_id:
                return self._administrator(ticket)
            if caller is None or age > _WITHOUT_DATABASE_SECONDS:
                raise
            return caller  # operators must still see the page that shows the outage

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
        is_ended = select(ended_session.c.id).where(ended_session.c.id == ticket.session)
        ended, row = self._database.read(
            lambda conn: (conn.execute(is_ended).first(), clients.get_api_key(conn, ticket.key_id))
        )
        if ended is not None:
            raise _ended()
        if not ticket.key_id:
            return self._administrator(ticket)
        caller = caller_by(row, self._clock.now())
        if caller is None:
            raise _ended()
        return caller


def _mark(key: str) -> str:
    return hashlib.sha256(b"session:" + hash_key(key).encode()).hexdigest()[:32]


def _ended() -> Unauthenticated:
    return Unauthenticated("this session has ended; sign in again", code="session_ended")


_MOST_HOPS = 32


UNREADABLE = "unreadable"  # in no zone and no network


def client_address(peer: str, forwarded_for: str | None, trusted: Sequence[Network]) -> str:
    """The first address, counted from this end, that is not a trusted proxy.

    `peer` is the socket's other end, `forwarded_for` the X-Forwarded-For header, to which each proxy appends its peer.
    Whatever precedes the first untrusted address may be forged, and is ignored. A hop that is no address gives
    UNREADABLE: the proxy before it is not the client.
    """
    found = peer
    hops = forwarded_for.split(",") if forwarded_for and forwarded_for.strip() else []
    for hop in reversed(hops[-_MOST_HOPS:]):
        if not _is_trusted(found, trusted):
            return found
        written = _without_port(hop.strip())
        if _parsed(written) is None:
            return UNREADABLE  # a proxy wrote what nobody can judge: not the proxy's own address
        found = written
    return found


def zones_of(address: str | None, zones: dict[str, tuple[Network, ...]]) -> frozenset[str]:
    """The named networks that contain an address."""
    parsed = _parsed(address or "")
    if parsed is None:
        return frozenset()
    return frozenset(
        name for name, networks in zones.items() if any(parsed in network for network in networks)
    )


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)


@lru_cache(4096)
def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


@dataclass(frozen=True, slots=True)
class CallerContext:
    """A caller, and the address they call from."""

    caller: Caller
    address: str
    zones: frozenset[str] = frozenset()


def to_text(calling: CallerContext | None) -> str | None:
    """The facts that policies need, as JSON: for work that continues after the response."""
    if calling is None:
        return None
    who = {name: getattr(calling.caller, name) for name in _WHO}
    facts = {**who, "address": calling.address, "zones": sorted(calling.zones)}
    return orjson.dumps(facts).decode()


def from_text(text: str | None) -> CallerContext | None:
    """Read what `to_text` wrote."""
    if text is None:
        return None
    facts = orjson.loads(text)
    return CallerContext(
        Caller(**{name: facts[name] for name in _WHO}), facts["address"], frozenset(facts["zones"])
    )


@contextmanager
def calling(who: CallerContext | None) -> Iterator[None]:
    """Run the block as this caller."""
    token = current.set(who)
    try:
        yield
    finally:
        current.reset(token)


_WHO = ("client_id", "key_id", "user", "team")
current: ContextVar[CallerContext | None] = ContextVar("calling", default=None)


def _refusal(shown: str) -> str:
    if looks_like_key(shown):
        return "unknown API key: it was revoked, or is another service's; ask the operator for a new one"
    return "unknown API key: keys of this service are pk_ and 43 characters; `penstock clients add NAME` creates one"
