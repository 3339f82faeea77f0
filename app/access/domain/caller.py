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
    """Whether it may be granted: one of SCOPES, all of an area such as `batches:*`, or `*`."""
    area, _, rest = text.partition(":")
    return text == ALL or text in SCOPES or (area in _AREAS and rest == ALL)


def parse_scopes(wanted: Iterable[str]) -> frozenset[str]:
    """Check them. Raises ValueError that names the first unknown one, or when there is none."""
    found = frozenset(wanted)
    for scope in sorted(found):
        if not is_scope(scope):
            raise ValueError(f"there is no scope {scope[:40]!r}; there are {', '.join(SCOPES)}, AREA:* and *")
    if not found:
        raise ValueError("at least one scope is needed")
    return found


def allows(granted: Collection[str], wanted: str) -> bool:
    """Whether a key with these scopes may do what needs `wanted`. Who may write may read."""
    area, _, act = wanted.partition(":")
    if ALL in granted or wanted in granted or f"{area}:{ALL}" in granted:
        return True
    return act == "read" and f"{area}:write" in granted


def within(wanted: Iterable[str], granted: Collection[str]) -> bool:
    """Whether all of `wanted` may be handed on by who holds `granted`: nobody gives more than he has."""
    return all(_covered(scope, granted) for scope in wanted)


def scope_of(method: str, path: str) -> str:
    """The scope that a call needs. Only calls that change nothing are reading."""
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
    key_id: str = ""  # of the API key; empty: the one of the environment
    user: str = ""  # who holds the key
    team: str = ""
    administers: str = ""  # the team whose clients it may manage
    limits: ClientLimits = NO_LIMITS

    def may(self, scope: str) -> bool:
        """Whether its key reaches so far."""
        return allows(self.scopes, scope)

    def manages(self, team: str | None) -> bool:
        """Whether clients of this team are its to manage."""
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
    """Whether a database needs to be asked at all."""
    return _KEY.fullmatch(shown) is not None


def is_slug(name: str) -> bool:
    """Whether `name` may name a client: it becomes the last part of queue names."""
    return _SLUG.fullmatch(name) is not None


def _exactly(chance: bytes, count: int) -> bytes:
    if len(chance) != count:
        raise ValueError(f"{count} random bytes are needed, not {len(chance)}")
    return chance
