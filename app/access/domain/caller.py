"""API keys, their scopes, the caller that a key stands for, and what a client may use."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any, Literal

PICOS = 10**12
_MOST = 10**15
MOST_RETENTION = 10 * 365 * 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """None: no limit. Money is a decimal text in `currency`, such as "12.50"; periods are UTC days and months."""

    rpm: int | None = None  # requests per minute to the API
    most_waiting: int | None = None  # tasks queued at once
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: str | None = None
    money_per_month: str | None = None
    currency: str | None = None  # of both, such as USD
    over_budget: Literal["refuse", "wait"] = "refuse"
    order: Literal["arrival", "deadline"] = "arrival"  # the order of requests that do not choose one
    store: bool | None = None  # for requests that do not choose; False: content is erased once delivered
    cache: Literal["request", "always", "off"] | None = None  # which of its requests use the cache
    allow_degraded: bool | None = None  # for requests that do not choose
    retention_seconds: float | None = None  # from a task's end; None: the service's own

    @property
    def has_budget(self) -> bool:
        """Whether tasks must reserve tokens or money."""
        return any(value is not None for value in (self.tokens_per_day, self.tokens_per_month)) or (
            self.has_money
        )

    @property
    def has_money(self) -> bool:
        """Whether there is a budget of money, so that prices must be known."""
        return self.money_per_day is not None or self.money_per_month is not None


NO_LIMITS = ClientLimits()
_COUNTS = ("rpm", "most_waiting", "tokens_per_day", "tokens_per_month")
_AMOUNTS = ("money_per_day", "money_per_month")


def parse_limits(given: Mapping[str, Any]) -> ClientLimits:
    """Check a client's `limits`. Raises ValueError that begins with the field's name."""
    known = {item.name for item in fields(ClientLimits)}
    for name in given:
        if name not in known:
            raise ValueError(f"{str(name)[:40]}: unknown limit; choose from {', '.join(sorted(known))}")
    values = dict(given)
    for name in _COUNTS:
        _check_count(name, values.get(name))
    for name in _AMOUNTS:
        if values.get(name) is not None:
            picos(values[name], name)
            values[name] = str(values[name])
    _check_rest(values)
    return ClientLimits(**values)


def as_mapping(limits: ClientLimits) -> dict[str, Any]:
    """Only what differs from NO_LIMITS; `parse_limits` reads it again."""
    pairs = ((item.name, getattr(limits, item.name)) for item in fields(ClientLimits))
    return {name: value for name, value in pairs if value != getattr(NO_LIMITS, name)}


def picos(amount: Any, name: str = "amount") -> int:
    """A decimal amount in pico-units, exactly. Raises ValueError."""
    try:
        value = Decimal(str(amount))
    except InvalidOperation:
        raise ValueError(f"{name}: must be an amount such as 12.50") from None
    if isinstance(amount, bool) or not value.is_finite() or not 0 <= value <= _MOST // 10**9:
        raise ValueError(f"{name}: must be an amount such as 12.50, from 0 to 1,000,000")
    return int(value * PICOS)


def _check_count(name: str, value: Any) -> None:
    lowest = 1 if name == "rpm" else 0
    if value is not None and (type(value) is not int or not lowest <= value <= _MOST):
        raise ValueError(f"{name}: must be a whole number of at least {lowest}")


def _check_rest(values: dict[str, Any]) -> None:
    if values.get("over_budget", "refuse") not in ("refuse", "wait"):
        raise ValueError("over_budget: must be refuse or wait")
    if values.get("order", "arrival") not in ("arrival", "deadline"):
        raise ValueError("order: must be arrival or deadline")
    for name in ("store", "allow_degraded"):
        if values.get(name) is not None and type(values[name]) is not bool:
            raise ValueError(f"{name}: must be true or false")
    if values.get("cache") not in (None, "request", "always", "off"):
        raise ValueError("cache: must be request, always or off")
    kept = values.get("retention_seconds")
    if kept is not None and (
        isinstance(kept, bool) or not isinstance(kept, int | float) or not 0 < kept <= MOST_RETENTION
    ):
        raise ValueError("retention_seconds: must be above 0 and at most ten years")
    currency = values.get("currency")
    has_money = any(values.get(name) is not None for name in _AMOUNTS)
    if currency is not None and (
        not isinstance(currency, str) or not currency.isascii() or not 1 <= len(currency) <= 8
    ):
        raise ValueError("currency: must be a currency such as USD")
    if has_money and currency is None:
        raise ValueError("currency: required for a budget of money, such as USD")


MOST_CLIENTS = 100  # that one administrator of a team may add
_LEAST_COUNTS = {
    "rpm": 1,
    "most_waiting": 0,
    "tokens_per_day": 0,
    "tokens_per_month": 0,
}  # with the minimum of each
_STEP = Decimal("0.000001")


def share(own: ClientLimits, team: Sequence[ClientLimits], count: int) -> ClientLimits:
    """The limits of each of `count` clients.

    Where the administrator has no limit of a kind, each gets the tightest that the team's other clients have,
    if any, so that a new client cannot bypass it.
    """
    currency = own.currency or next((one.currency for one in team if one.has_money), None)
    alike = [one for one in team if one.currency == currency]
    counts = {name: _count(getattr(own, name), name, team, count) for name in _LEAST_COUNTS}
    amounts = {name: _amount(getattr(own, name), name, alike, count) for name in _AMOUNTS}
    has_money = any(value is not None for value in amounts.values())
    return replace(own, currency=currency if has_money else None, **counts, **amounts)  # type: ignore[arg-type]


def too_small(own: ClientLimits, count: int) -> str | None:
    """The first limit too small for `count` clients to get one unit each; None: all suffice."""
    return next((name for name in _LEAST_COUNTS if 0 < (getattr(own, name) or 0) < count), None)


def _count(own: int | None, name: str, team: Sequence[ClientLimits], count: int) -> int | None:
    if own is not None:
        return max(_LEAST_COUNTS[name], own // count)
    return min((value for one in team if (value := getattr(one, name)) is not None), default=None)


def _amount(own: str | None, name: str, team: Sequence[ClientLimits], count: int) -> str | None:
    if own is not None:
        return str((Decimal(own) / count).quantize(_STEP, ROUND_DOWN))
    amounts = [Decimal(value) for one in team if (value := getattr(one, name)) is not None]
    return str(min(amounts)) if amounts else None


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
_SLUG = re.compile(r"[a-z0-9_-]{1,40}")


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


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client, without its secrets."""

    id: str  # the slug
    weight: float
    granted_priority: str
    is_admin: bool
    settings: str | None  # JSON text
    created_at: float
    team: str | None
    administers: str | None  # the team whose clients it may manage
