"""Routes: by which key and upstream model a model can be served, and which quotas a call must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.settings.domain.quota import ConfiguredQuota
from app.tasks.domain.eligibility import PLAIN, TierRule

ANY = "*"


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a model."""

    key: str
    upstream: str
    account: str
    upstream_model: str
    weight: float = 1.0
    # Every quota that a call by this route must pass, told or not: each of them can be braked. Plans ask for them
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
    quotas: Mapping[str, ConfiguredQuota] = field(default_factory=dict)  # told ones
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
