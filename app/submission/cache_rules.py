"""What the configuration says about the cache."""

from __future__ import annotations

from collections.abc import Mapping

from app.caching.domain.caching import CacheRules, model_version
from app.settings import Settings
from app.settings.lay_routes import lay_routes


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
        for name, tiers in lay_routes(settings).models.items()
    }
