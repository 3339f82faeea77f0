"""Routes: by which key and upstream model a model can be served, and which quotas limit a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.tasks.domain.eligibility import PLAIN, TierRule

WINDOW = 60.0  # seconds: what "per minute" is counted over
JITTER = (
    0.25  # seconds between a release and its send that are allowed for; measured 223 ms for a burst of 200
)

TICK = 0.02  # seconds by which the dispatcher may be late without losing pace, as far as the burst allows
_STRICTLY = 1 - 1e-6  # the bound is strict


@dataclass(frozen=True, slots=True)
class ConfiguredQuota:
    """Configured limits of an account or key. None: no limit until one is estimated."""

    id: str
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None
    burst: float | None = None  # calls at once after a rest; default one second's worth, at least 1
    learn: bool = True  # False: limits that are not configured are not estimated, even after refusals


@dataclass(frozen=True, slots=True)
class Bucket:
    """`size` units at most, refilled by `rate` a second."""

    size: float
    rate: float

    def filled(self, level: float, seconds: float) -> float:
        """The level after `seconds` of refill."""
        return min(self.size, level + max(0.0, seconds) * self.rate)


def request_bucket(quota: ConfiguredQuota) -> Bucket | None:
    """The bucket that keeps `rpm`, or None if none is configured."""
    if quota.rpm is None:
        return None
    per_second = quota.rpm / WINDOW
    burst = min(quota.rpm, quota.burst if quota.burst is not None else max(1.0, per_second))
    size = max(burst - per_second * JITTER, min(burst, 1.0 + per_second * TICK))
    return Bucket(size, (quota.rpm + 1 - size) / (WINDOW + JITTER) * _STRICTLY)


def token_bucket(quota: ConfiguredQuota) -> Bucket | None:
    """The bucket that keeps `tpm`: one second's worth, or as many seconds' as the burst of requests is."""
    if quota.tpm is None:
        return None
    seconds = quota.burst / (quota.rpm / WINDOW) if quota.burst and quota.rpm else 1.0
    size = min(quota.tpm / 2, max(1.0, quota.tpm / WINDOW * seconds))
    return Bucket(size, (quota.tpm - size) / (WINDOW + JITTER))


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """A quota's buckets and cap in force; None where it has no limit."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaState:
    """A quota at one instant of gate time: levels are refilled up to that instant."""

    requests: Bucket | None = None
    level: float = 0.0
    tokens: Bucket | None = None
    token_level: float = 0.0
    cap: int | None = None
    flight: int = 0
    braked_until: float = 0.0
    reason: str = ""
    judged: str = (
        ""  # what lowers its limits now, where it is neither configured nor learned: see governor.py
    )

    def opens_in(self, estimate: float, now: float) -> float:
        """Seconds until one call of `estimate` tokens would pass; 0 is now, infinite when only an end can free it.

        A call larger than the token bucket passes when the bucket is full (and leaves a debt).
        """
        if self.cap is not None and self.flight >= self.cap:
            return float("inf")
        wait = max(0.0, self.braked_until - now)
        if self.requests is not None and self.level < 1.0:
            wait = max(wait, _refill(1.0 - self.level, self.requests.rate))
        return max(wait, self.tokens_in(estimate))

    def tokens_in(self, estimate: float) -> float:
        """Seconds until the token bucket holds enough for `estimate`."""
        if self.tokens is None:
            return 0.0
        missing = min(estimate, self.tokens.size) - self.token_level
        return _refill(missing, self.tokens.rate) if missing > 0 else 0.0


def _refill(missing: float, rate: float) -> float:
    return missing / rate if rate > 0 else float("inf")


ANY = "*"


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a model."""

    key: str
    upstream: str
    account: str
    upstream_model: str
    weight: float = 1.0
    # Every quota that a call by this route must pass, configured or not: each of them can be braked. Plans ask for them
    # at every turn, so they are made once.
    quotas: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        quotas = (
            account_quota(self.account, self.upstream_model),
            account_quota(self.account, ANY),
            key_quota(self.key, self.upstream_model),
            key_quota(self.key, ANY),
            upstream_quota(self.upstream, self.upstream_model),
            upstream_quota(self.upstream),
        )
        object.__setattr__(self, "quotas", quotas)


def account_quota(account: str, model: str) -> str:
    """Id of the quota that an account's keys share for an upstream model (`*`: for all together)."""
    return f"account:{account}:{model}"


def key_quota(key: str, model: str) -> str:
    """Id of the quota of one key for an upstream model (`*`: for all together)."""
    return f"key:{key}:{model}"


def upstream_quota(upstream: str, model: str = ANY) -> str:
    """Id of the quota of everything sent to one upstream, or for one of its models: what its breaker closes."""
    return f"upstream:{upstream}:{model}"


Tiers = tuple[tuple[Route, ...], ...]


class Balance(StrEnum):
    """How calls are spread over the routes of a tier."""

    WEIGHTED = "weighted"  # in turn, by weight
    LEAST_IN_FLIGHT = "least_in_flight"  # fewest calls in flight for its weight
    FASTEST = "fastest"  # shortest mean response time lately


@dataclass(frozen=True, slots=True)
class BalancingPolicy:
    """How a model's tiers are used. `tiers` are in step with the model's; missing ones are plain."""

    balance: Balance = Balance.WEIGHTED
    tiers: tuple[TierRule, ...] = ()

    def rule(self, index: int) -> TierRule:
        """The rule of a tier."""
        return self.tiers[index] if index < len(self.tiers) else PLAIN

    @property
    def is_plain(self) -> bool:
        """Whether every task may use every tier."""
        return all(rule.is_plain for rule in self.tiers)


DEFAULT_POLICY = BalancingPolicy()


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything configured that planning needs."""

    models: Mapping[str, Tiers] = field(default_factory=dict)
    quotas: Mapping[str, ConfiguredQuota] = field(default_factory=dict)  # configured ones
    policies: Mapping[str, BalancingPolicy] = field(default_factory=dict)  # by model

    def policy(self, model: str) -> BalancingPolicy:
        """How a model's tiers are used."""
        return self.policies.get(model, DEFAULT_POLICY)

    @property
    def quota_ids(self) -> tuple[str, ...]:
        """Every quota of every route, in a fixed order."""
        ids = {
            name: None for tiers in self.models.values() for tier in tiers for r in tier for name in r.quotas
        }
        return tuple(ids)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that some model can use, in a fixed order."""
        return tuple({r.key: None for tiers in self.models.values() for tier in tiers for r in tier})

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every route, in a fixed order."""
        return tuple({r: None for tiers in self.models.values() for tier in tiers for r in tier})
