"""The exact cache: which tasks may use it, under which key, and which answers may be kept.

A key is the hash of everything that determines an answer, within a scope: the client's own, or the shared one where
both the operator and the request allow it. The scope is a readable prefix of the key and is compared again when an
entry is read, so no hash collision can give one client another's answer.
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
_FORMAT = 1  # increase when keys change, so that old entries are not found
# Parameters that do not determine the answer: whom to bill, how to deliver it, labels.
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
_EXACT_TO = 2.0**53  # above this, floats are not exact integers


class Mode(StrEnum):
    """How a request may use the cache."""

    READ = "read"  # use a cached answer; do not cache a new one
    WRITE = "write"  # use a cached answer; cache a new one
    REFRESH = "refresh"  # ignore a cached answer and replace it
    OFF = "off"


class CacheUsage(StrEnum):
    """Which requests use the cache, by the operator's decision for a client, a model or the service."""

    REQUEST = "request"  # those that ask for it, and those at temperature 0
    ALWAYS = "always"  # all but those that opt out
    OFF = "off"  # none, whatever they ask for


def combined(*decisions: CacheUsage | None) -> CacheUsage:
    """What holds where several were decided (None: undecided): off wins, then always."""
    known = {decision for decision in decisions if decision is not None}
    return next(
        (usage for usage in (CacheUsage.OFF, CacheUsage.ALWAYS) if usage in known), CacheUsage.REQUEST
    )


class CacheScope(StrEnum):
    """With whom answers are shared."""

    CLIENT = "client"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class CacheParams:
    """A request's `cache` field; None: not given."""

    ttl: float | None = None  # seconds
    mode: Mode | None = None
    scope: CacheScope | None = None


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What the operator allows."""

    enabled: bool = True
    ttl: float = DEFAULT_TTL  # seconds, unless the request sets it
    longest_ttl: float = 7 * DAY
    shared: bool = False  # whether requests may use the shared scope
    usage: CacheUsage = CacheUsage.REQUEST


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How one task uses the cache; without a key, it does not."""

    key: str | None = None
    look: bool = False  # may be answered from the cache
    keep_seconds: float | None = None  # how long its own answer is cached; None: it is not

    @property
    def joins(self) -> bool:
        """Whether it shares one call with identical tasks in flight: it both reads and writes the cache."""
        return self.key is not None and self.look and self.keep_seconds is not None


NO_CACHE = CacheUse()


def use_of(
    params: CacheParams | None,
    rules: CacheRules,
    *,
    client_id: str,
    model: str,
    version: str,
    body: Mapping[str, Any],
) -> CacheUse:
    """Decide how a request uses the cache. `body` is sent upstream, without `model`.

    Without a `cache` field, the cache is used at temperature 0, or always if `rules` say so. Raises Invalid for a scope
    that the operator does not allow.
    """
    mode = _mode(params, rules.usage, body)
    if mode is Mode.OFF:
        return NO_CACHE
    scope = _scope(params, rules, client_id)
    ttl = _ttl(params, rules)
    if not rules.enabled or rules.usage is CacheUsage.OFF:
        return NO_CACHE
    key = cache_key(scope, model, version, body)
    return CacheUse(
        key,
        look=mode is not Mode.REFRESH,
        keep_seconds=None if mode is Mode.READ else ttl,
    )


def _mode(params: CacheParams | None, usage: CacheUsage, body: Mapping[str, Any]) -> Mode:
    if params is not None:
        return params.mode or Mode.WRITE
    if usage is CacheUsage.ALWAYS:
        return Mode.WRITE
    temperature = body.get("temperature")
    cold = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return Mode.WRITE if cold else Mode.OFF


def _scope(params: CacheParams | None, rules: CacheRules, client_id: str) -> str:
    if params is None or params.scope is not CacheScope.SHARED:
        return client_scope(client_id)
    if not rules.shared:
        raise Invalid(
            "cache.scope: the operator has not opened a shared scope; leave it out",
            param="cache.scope",
            code="cache_scope_closed",
        )
    return SHARED


def _ttl(params: CacheParams | None, rules: CacheRules) -> float:
    return min(rules.ttl if params is None or params.ttl is None else params.ttl, rules.longest_ttl)


def client_scope(client_id: str) -> str:
    """The scope of one client. The prefix keeps a client named `shared` apart from the shared scope."""
    return f"client:{client_id}"


def scope_of(key: str) -> str:
    """The scope of a key."""
    return key.rpartition(":")[0]


def cache_key(scope: str, model: str, version: str, body: Mapping[str, Any]) -> str:
    """`<scope>:<SHA-256>` of what determines an answer: the model, its version, and the canonical body.

    `version` identifies what serves the model (see `model_version`).
    """
    identity = [_FORMAT, scope, model, version, _relevant(body)]
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return f"{scope}:{hashlib.sha256(text.encode()).hexdigest()}"


def _relevant(body: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical body: null parameters and `n` of 1 are left out."""
    kept = {name: _canonical(value) for name, value in body.items() if name not in _IRRELEVANT}
    kept = {name: value for name, value in kept.items() if value is not None}
    if kept.get("n") == 1:
        del kept["n"]
    return kept


def _canonical(value: Any) -> Any:
    """Numbers as in JSON, where 1.0 is 1. Strings stay unchanged: other bytes may give another answer."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_TO:
        return int(value)
    if isinstance(value, Mapping):
        return {name: _canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    return value


def model_version(tiers: Sequence[Sequence[tuple[str, str]]], cache_version: str) -> str:
    """Identify what serves a model: its tiers of (upstream, upstream model), and the configured cache version.

    Answers of one version are never used for another.
    """
    text = json.dumps([[sorted(set(tier)) for tier in tiers], cache_version], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def may_keep(document: Any, *, simulated: bool, repaired: bool, size: int, most: int) -> bool:
    """Whether an upstream's answer (parsed) may be cached.

    Never one that is simulated, degraded, an error, truncated, filtered, larger than `most` bytes, or an answer to a
    request that was changed on the way.
    """
    if simulated or repaired or size > most or not isinstance(document, Mapping):
        return False
    if document.get("error") or document.get("degraded") or document.get("simulated"):
        return False
    choices = document.get("choices")
    return isinstance(choices, list) and bool(choices) and all(map(_is_whole, choices))


def _is_whole(choice: Any) -> bool:
    return isinstance(choice, Mapping) and choice.get("finish_reason") in _WHOLE
