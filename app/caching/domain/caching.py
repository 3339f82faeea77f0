"""The exact cache: which tasks may use it, under which key, and which answers may be kept.

A key is the hash of everything upstream that decides an answer, within a scope: a client's own, or the shared one
where both the operator and the request open it. The scope stands in front of the key, readable, and is compared again
when an entry is read: nothing that is hashed can make one client's answer another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.platform.domain.errors import Invalid
from app.platform.domain.times import DAY

DEFAULT_TTL = DAY  # seconds
SHARED = "shared"
_FORMAT = 1  # raised when keys are made in another way, so that old entries are not met
# What an upstream reads without its deciding the answer: whom to bill, how to deliver, what to call it.
_IRRELEVANT = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
        "user_id",
    }
)
_WHOLE = frozenset({"stop", "tool_calls", "function_call"})
_EXACT_TO = 2.0**53  # beyond it a float is not one whole number any more


class Mode(StrEnum):
    """What a request may ask of the cache."""

    READ = "read"  # an answer that is there is taken; a new one is not kept
    WRITE = "write"  # an answer that is there is taken, a new one is kept
    REFRESH = "refresh"  # what is there is passed over, the new answer takes its place
    OFF = "off"


class CacheScope(StrEnum):
    """With whom answers are shared."""

    CLIENT = "client"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class CacheWish:
    """A request's `cache` field. What is None was left out."""

    ttl: float | None = None  # seconds
    mode: Mode | None = None
    scope: CacheScope | None = None


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What the operator allows."""

    enabled: bool = True
    ttl: float = DEFAULT_TTL  # seconds, where a request names none
    longest_ttl: float = 7 * DAY
    shared: bool = False  # whether requests may open the shared scope


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What is done for one task. Without a key: nothing."""

    key: str | None = None
    look: bool = False  # an answer that is there is taken
    keep_seconds: float | None = None  # how long its own answer is kept; None: it is not

    @property
    def joins(self) -> bool:
        """Whether identical tasks in flight share one call with it: where both looking and keeping are wanted."""
        return self.key is not None and self.look and self.keep_seconds is not None


NO_CACHE = CacheUse()


def use_of(
    wish: CacheWish | None,
    rules: CacheRules,
    *,
    client_id: str,
    model: str,
    version: str,
    body: Mapping[str, Any],
) -> CacheUse:
    """Decide what is done for a request. `body` is what the upstream gets, without `model`.

    Without a wish the cache is used at temperature 0 alone. Raises Invalid for a wish that the operator forbids.
    """
    mode = _mode(wish, body)
    if mode is Mode.OFF:
        return NO_CACHE
    scope = _scope(wish, rules, client_id)
    ttl = _ttl(wish, rules)
    if not rules.enabled:
        return NO_CACHE
    key = cache_key(scope, model, version, body)
    return CacheUse(
        key,
        look=mode is not Mode.REFRESH,
        keep_seconds=None if mode is Mode.READ else ttl,
    )


def _mode(wish: CacheWish | None, body: Mapping[str, Any]) -> Mode:
    if wish is not None:
        return wish.mode or Mode.WRITE
    temperature = body.get("temperature")
    cold = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return Mode.WRITE if cold else Mode.OFF


def _scope(wish: CacheWish | None, rules: CacheRules, client_id: str) -> str:
    if wish is None or wish.scope is not CacheScope.SHARED:
        return client_scope(client_id)
    if not rules.shared:
        raise Invalid(
            "cache.scope: the operator has not opened a shared scope; leave it out",
            param="cache.scope",
            code="cache_scope_closed",
        )
    return SHARED


def _ttl(wish: CacheWish | None, rules: CacheRules) -> float:
    return min(rules.ttl if wish is None or wish.ttl is None else wish.ttl, rules.longest_ttl)


def client_scope(client_id: str) -> str:
    """The scope of one client. A slug holds no colon, so that no client is called like the shared scope."""
    return f"client:{client_id}"


def scope_of(key: str) -> str:
    """The scope in front of a key."""
    return key.rpartition(":")[0]


def cache_key(scope: str, model: str, version: str, body: Mapping[str, Any]) -> str:
    """`<scope>:<SHA-256>` of what decides an answer: the model, its version, and the canonical body.

    `version` names what stands behind the model's name (see `model_version`).
    """
    identity = [_FORMAT, scope, model, version, _relevant(body)]
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return f"{scope}:{hashlib.sha256(text.encode()).hexdigest()}"


def _relevant(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body in its canonical form: a null parameter is one left out, as is asking for a single choice."""
    kept = {name: _canonical(value) for name, value in body.items() if name not in _IRRELEVANT}
    kept = {name: value for name, value in kept.items() if value is not None}
    if kept.get("n") == 1:
        del kept["n"]
    return kept


def _canonical(value: Any) -> Any:
    """Numbers as JSON means them: 1.0 is 1. Texts stay as they are: other bytes may mean another answer."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_TO:
        return int(value)
    if isinstance(value, Mapping):
        return {name: _canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    return value


def model_version(tiers: Sequence[Sequence[tuple[str, str]]], told: str) -> str:
    """Name what stands behind a model: its tiers of (upstream, upstream model), and the operator's own word.

    Other tiers are another version: their answers are not each other's.
    """
    text = json.dumps([[sorted(set(tier)) for tier in tiers], told], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def may_keep(document: Any, *, simulated: bool, repaired: bool, size: int, most: int) -> bool:
    """Whether an upstream's answer (parsed) may be given again.

    Never one that is simulated, degraded, an error, truncated, filtered, or an answer to a request that was
    changed on the way; nor one of more than `most` bytes.
    """
    if simulated or repaired or size > most or not isinstance(document, Mapping):
        return False
    if document.get("error") or document.get("degraded") or document.get("simulated"):
        return False
    choices = document.get("choices")
    return isinstance(choices, list) and bool(choices) and all(map(_is_whole, choices))


def _is_whole(choice: Any) -> bool:
    return isinstance(choice, Mapping) and choice.get("finish_reason") in _WHOLE
