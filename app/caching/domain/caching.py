"""The exact cache: which tasks may use it, under which key, and which answers may be kept.

A key is the hash of everything that determines an answer, within a scope: the client's own, or the shared one where
both the operator and the request allow it. The scope is a readable prefix of the key and is compared again when an
entry is read, so no hash collision can give one client another's answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol

from app.platform.domain.errors import Invalid
from app.platform.domain.money import CallCost
from app.platform.domain.times import DAY
from app.tasks.domain.attempt import Finish, TokenUsage

DEFAULT_TTL = DAY  # seconds
SHARED = "shared"
_FORMAT = 1  # increase when keys change, so that old entries are not found
# Parameters that do not determine the answer: whom to bill, how to deliver it, labels.
_IRRELEVANT = frozenset(
    {
        "metadata",
        "penstock_shared",
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


class FallbackKind(StrEnum):
    """What stands in for an upstream's answer."""

    TEXT = "text"  # the text configured for its model
    STALE = "stale"  # a cached answer past its lifetime


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An upstream's answer, and what it cost."""

    result: str  # JSON text on one line
    usage: TokenUsage | None = None
    cost: CallCost | None = None  # None: unknown
    simulated: bool = False
    fallback: FallbackKind | None = None  # set where it stands in for an answer that no upstream could give
    # Only complete answers are cached; others are given on to identical tasks.
    finish: str | None = field(default=Finish.COMPLETE, compare=False)
    until: float | None = field(default=None, compare=False)  # Unix seconds: when it expires; None: unknown

    @property
    def cached(self) -> bool:
        """Whether it comes from the cache, fresh or stale."""
        return self.fallback is not FallbackKind.TEXT

    def is_fresh(self, now: float) -> bool:
        """Whether its lifetime has not passed at `now`, Unix seconds."""
        return self.until is None or now < self.until

    @property
    def currency(self) -> str | None:
        """The currency of its cost."""
        return self.cost.currency if self.cost else None


def write(key: str, answer: CachedAnswer) -> str:
    """Serialize an entry: a line of JSON with its key, then the result. Raises ValueError for a simulated answer."""
    if answer.simulated:
        raise ValueError("a simulated answer is never kept")
    usage = astuple(answer.usage) if answer.usage else None
    cost = [answer.cost.picos, answer.cost.currency] if answer.cost else None
    head = {"key": key, "usage": usage, "cost": cost, "until": answer.until}
    return f"{json.dumps(head)}\n{answer.result}"


def read(key: str, entry: str) -> CachedAnswer | None:
    """The answer in an entry; None when it belongs to another key or is damaged."""
    head, line_break, result = entry.partition("\n")
    try:
        known = json.loads(head)
        usage = TokenUsage(*known["usage"]) if known["usage"] else None
        cost = CallCost(*known["cost"]) if known["cost"] else None
        until = None if (said := known.get("until")) is None else float(said)
    except (ValueError, TypeError, KeyError):
        return None
    if known["key"] != key or not line_break or not result:
        return None
    return CachedAnswer(result, usage, cost, until=until)


@dataclass(frozen=True, slots=True)
class Fallback:
    """What may answer a model's tasks while nothing can serve them."""

    text: str | None = None
    after: float = 30.0  # seconds that a task has waited before, unless everything is known to be down
    stale_seconds: float = 0.0  # how long after its expiry a cached answer is given instead
    always: bool = False  # for requests that do not choose

    def answer(
        self, task_id: str, model: str, cached: CachedAnswer | None, now: float
    ) -> CachedAnswer | None:
        """A cached answer that is not too stale, else the text; None if there is neither. `now`: Unix seconds."""
        if cached is not None and now < (cached.until or 0.0) + self.stale_seconds:
            return replace(cached, fallback=FallbackKind.STALE)
        if self.text is None:
            return None
        completion = json.dumps(degraded_completion(task_id, model, self.text, now), separators=(",", ":"))
        return CachedAnswer(completion, TokenUsage(0, 0), fallback=FallbackKind.TEXT)


def degraded_completion(task_id: str, model: str, text: str, at: float) -> dict[str, Any]:
    """A chat completion of this text; `degraded` says that no model answered. `at`: Unix seconds."""
    message = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{task_id.removeprefix('task_')}",
        "object": "chat.completion",
        "created": int(at),
        "model": model,
        "degraded": True,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


Eviction = Literal["lru", "lfu"]
"""Whether the least recently or the least frequently used answers make room."""


class AnswerCache(Protocol):
    """A store of answers. Never raises: a store that fails counts as empty."""

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key; with `stale` also expired ones that are still there."""

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Record how often answers were used without asking this store, by key."""

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Cache an answer for so many seconds, replacing an older one."""

    def stamp(self) -> str | None:
        """A value that changes whenever any process replaces an answer. None: it cannot be read now."""

    def count(self) -> int | None:
        """How many answers it holds; None: it cannot be read now."""

    def clear(self, scope: str | None) -> int | None:
        """Remove all answers, or those of one scope; returns how many, None if that failed."""

    def close(self) -> None:
        """Close its connections."""


class NoAnswers:
    """A cache that stores nothing."""

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:  # noqa: ARG002
        """Finds nothing."""
        return {}

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Records nothing."""

    def count(self) -> int | None:
        """None."""
        return 0

    def clear(self, scope: str | None) -> int | None:  # noqa: ARG002
        """Removes nothing."""
        return 0

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Stores nothing."""

    def stamp(self) -> str | None:
        """Never changes."""
        return ""

    def close(self) -> None:
        """Has nothing to close."""
