"""What the configuration says about the cache."""

from __future__ import annotations

from collections.abc import Mapping

from app.caching.domain.caching import CacheRules, model_version
from app.settings import Settings
from app.settings.build_topology import build_topology


def cache_rules(settings: Settings) -> CacheRules:
    """What the operator allows."""
    cache = settings.cache
    return CacheRules(cache.enabled, cache.ttl, cache.longest_ttl, cache.shared)


def model_versions(settings: Settings) -> Mapping[str, str]:
    """What stands behind each model's name; with other tiers, or another word of the operator's, it is another."""
    told = {model.name: model.version for model in settings.models}
    return {
        name: model_version(
            [[(route.upstream, route.upstream_model) for route in tier] for tier in tiers],
            told.get(name, ""),
        )
        for name, tiers in build_topology(settings).models.items()
    }
