"""API keys, their scopes, and the caller that a key stands for."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from app.access.domain.client_limits import NO_LIMITS, ClientLimits

ALL = "*"
SCOPES = (
    "tasks:read",
    "tasks:write",
    "batches:read",
    "batches:write",
    "usage:read",
    "admin:read",
    "admin:write",
)
_AREAS = frozenset(scope.partition(":")[0] for scope in SCOPES)
_PREFIXES = (
    ("/v1/admin", "admin"),
    ("/v1/batch", "batches"),  # /v1/batches too
    ("/v1/files", "batches"),
    ("/v1/usage", "usage"),
)


def is_scope(text: str) -> bool:
    """Whether it is a valid scope: one of SCOPES, all of an area such as `batches:*`, or `*`."""
    area, _, rest = text.partition(":")
    return text == ALL or text in SCOPES or (area in _AREAS and rest == ALL)


def parse_scopes(wanted: Iterable[str]) -> frozenset[str]:
    """Check scopes. Raises ValueError for an unknown one, by its name, and for an empty list."""
    found = frozenset(wanted)
    for scope in sorted(found):
        if not is_scope(scope):
            raise ValueError(f"unknown scope {scope[:40]!r}; choose from {', '.join(SCOPES)}, AREA:* and *")
    if not found:
        raise ValueError("at least one scope is required")
    return found


def allows(granted: Collection[str], wanted: str) -> bool:
    """Whether a key with these scopes may do what requires `wanted`. Write includes read."""
    area, _, act = wanted.partition(":")
    if ALL in granted or wanted in granted or f"{area}:{ALL}" in granted:
        return True
    return act == "read" and f"{area}:write" in granted


def within(wanted: Iterable[str], granted: Collection[str]) -> bool:
    """Whether whoever holds `granted` may grant all of `wanted`: nobody grants more than they have."""
    return all(_covered(scope, granted) for scope in wanted)


def scope_of(method: str, path: str) -> str:
    """The scope that a call requires. Only methods that change nothing count as reading."""
    act = "read" if method in ("GET", "HEAD", "OPTIONS") else "write"
    plain = path.removeprefix("/api")
    area = next((area for prefix, area in _PREFIXES if plain.startswith(prefix)), "tasks")
    return f"{area}:read" if area == "usage" else f"{area}:{act}"


def _covered(scope: str, granted: Collection[str]) -> bool:
    if scope == ALL:
        return ALL in granted
    act = scope.partition(":")[2]
    if act == ALL:
        return ALL in granted or scope in granted
    return allows(granted, scope)


KEY_BYTES = 32  # 256 random bits
SECRET_BYTES = 32
ADMIN = "admin"  # the client that PENSTOCK_ADMIN_KEY stands for
_KEY = re.compile(r"pk_[A-Za-z0-9_-]{43}")
_SLUG = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that has shown a valid API key."""

    client_id: str
    is_admin: bool = False
    granted_priority: str = "normal"
    scopes: frozenset[str] = frozenset({"*"})
    key_id: str = ""  # "environment": the administrator's key
    user: str = ""  # who holds the key
    team: str = ""
    administers: str = ""  # the team whose clients it may manage
    limits: ClientLimits = NO_LIMITS

    def may(self, scope: str) -> bool:
        """Whether the scopes of its key allow this."""
        return allows(self.scopes, scope)

    def manages(self, team: str | None) -> bool:
        """Whether it may manage clients of this team."""
        return self.is_admin or bool(self.administers and self.administers == team)


@dataclass(frozen=True, slots=True)
class NewKey:
    """An API key at the only moment when it is known: `shown` goes to its owner, `hash` to the database."""

    shown: str
    hash: str
    hint: str  # its last four characters


def make_key(chance: bytes) -> NewKey:
    """Make `pk_` and 43 base64url characters out of 32 random bytes."""
    shown = "pk_" + base64.urlsafe_b64encode(_exactly(chance, KEY_BYTES)).rstrip(b"=").decode()
    return NewKey(shown, hash_key(shown), shown[-4:])


def make_callback_secret(chance: bytes) -> str:
    """Make a Standard Webhooks secret, `whsec_` and base64, out of 32 random bytes."""
    return "whsec_" + base64.b64encode(_exactly(chance, SECRET_BYTES)).decode()


def hash_key(shown: str) -> str:
    """SHA-256 in hexadecimal: 256 random bits need no salt and no stretching."""
    return hashlib.sha256(shown.encode()).hexdigest()


def looks_like_key(shown: str) -> bool:
    """Whether it has the form of a key; nothing else is looked up in the database."""
    return _KEY.fullmatch(shown) is not None


def is_slug(name: str) -> bool:
    """Whether `name` may be a client's id, which becomes the last part of queue names."""
    return _SLUG.fullmatch(name) is not None


def _exactly(chance: bytes, count: int) -> bytes:
    if len(chance) != count:
        raise ValueError(f"{count} random bytes are required, not {len(chance)}")
    return chance
