"""Who may do what: API keys, and the caller that a key stands for."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from app.access.domain.client_limits import NO_LIMITS, ClientLimits
from app.access.domain.scopes import allows

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
