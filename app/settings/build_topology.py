"""Lay the routes: from what is configured to what planning needs."""

from __future__ import annotations

from app.settings import KeySettings, ModelSettings, QuotaSettings, Settings
from app.settings.domain.quota import ConfiguredQuota
from app.settings.domain.routing import Balance, BalancingPolicy, Route, Topology, account_quota, key_quota
from app.tasks.domain.eligibility import TierRule, condition_id


def build_topology(settings: Settings) -> Topology:
    """Resolve tiers into routes, and told figures into quotas. Settings were checked when they were loaded."""
    keys = {key.name: key for key in settings.keys}
    models = {
        model.name: tuple(
            tuple(_route(model.name, text, keys) for text in tier.keys) for tier in model.all_tiers
        )
        for model in settings.models
    }
    policies = {model.name: _policy(model) for model in settings.models}
    quotas = [_quota(told) for told in settings.quotas]
    return Topology(models, {quota.id: quota for quota in quotas}, policies)


def _policy(model: ModelSettings) -> BalancingPolicy:
    rules = (
        TierRule(condition_id(tier.when) if tier.when else "", frozenset(tier.serves))
        for tier in model.all_tiers
    )
    return BalancingPolicy(Balance(model.balance), tuple(rules))


def _route(model: str, text: str, keys: dict[str, KeySettings]) -> Route:
    name, _, upstream_model = text.partition(":")
    key = keys[name]
    return Route(key.name, key.upstream, key.account or key.name, upstream_model or model, key.weight)


def _quota(told: QuotaSettings) -> ConfiguredQuota:
    name = account_quota(told.account, told.model) if told.account else key_quota(str(told.key), told.model)
    return ConfiguredQuota(name, told.rpm, told.tpm, told.concurrency, told.burst)
