"""From settings to routes and quotas, and to the keys whose queues a worker consumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from app.settings import ConfigError, KeySettings, ModelSettings, QuotaSettings, Settings
from app.settings.domain.routing import (
    Balance,
    BalancingPolicy,
    ConfiguredQuota,
    Route,
    Topology,
    account_quota,
    key_quota,
)
from app.settings.tier_models import DOWN, is_backup
from app.tasks.domain.eligibility import TierRule, condition_id


def build_topology(settings: Settings) -> Topology:
    """Resolve tiers into routes, and configured limits into quotas. Settings were checked when they were loaded."""
    keys = {key.name: key for key in settings.keys}
    models = {
        model.name: tuple(
            tuple(_route(model.name, text, keys) for text in tier.keys) for tier in model.all_tiers
        )
        for model in settings.models
    }
    policies = {model.name: _policy(model) for model in settings.models}
    quotas = [_quota(each) for each in settings.quotas]
    return Topology(models, {quota.id: quota for quota in quotas}, policies)


def _policy(model: ModelSettings) -> BalancingPolicy:
    rules = (
        TierRule(
            condition_id(tier.when) if tier.when and tier.when != DOWN else "",
            frozenset(tier.serves),
            backup=is_backup(tier.when),
        )
        for tier in model.all_tiers
    )
    return BalancingPolicy(Balance(model.balance), tuple(rules))


def _route(model: str, text: str, keys: dict[str, KeySettings]) -> Route:
    name, _, upstream_model = text.partition(":")
    key = keys[name]
    return Route(key.name, key.upstream, key.account or key.name, upstream_model or model, key.weight)


def _quota(given: QuotaSettings) -> ConfiguredQuota:
    name = (
        account_quota(given.account, given.model) if given.account else key_quota(str(given.key), given.model)
    )
    return ConfiguredQuota(name, given.rpm, given.tpm, given.concurrency, given.burst)


STARTED_FOR = "PENSTOCK_WORKER_REGION"  # separated by spaces; a worker goes on to follow the keys of these


def started_regions(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The regions that a worker process was started for."""
    return tuple(environment.get(STARTED_FOR, "").split())


def keys_of_regions(settings: Settings, regions: Collection[str]) -> tuple[str, ...]:
    """The keys of upstreams in these regions, as `keys_in`. Raises ConfigError for a region without a key."""
    region_of = {upstream.name: upstream.region for upstream in settings.upstreams}
    known = {region_of[key.upstream] for key in settings.keys} - {""}
    for region in regions:
        if region not in known:
            there = ", ".join(sorted(known)) or "none so far"
            hint = f'write region = "{region}" into its [[upstream]], or name one of: {there}'
            raise ConfigError(str(settings.path), None, f'no key is in the region "{region}"', hint)
    return keys_in(settings, regions)


def keys_in(settings: Settings, regions: Collection[str]) -> tuple[str, ...]:
    """The keys of upstreams in these regions; none for a region that there is not."""
    inside = {upstream.name for upstream in settings.upstreams if upstream.region in regions}
    return tuple(key.name for key in settings.keys if key.upstream in inside)
