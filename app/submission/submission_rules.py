"""What the configuration says about submissions: models, places, prices, cache rules, encryption."""

from __future__ import annotations

from collections.abc import Mapping

from app.access.manage_policies import PolicyBook, ServingPlace
from app.caching.domain.caching import CacheRules, CacheUsage, Fallback, model_version
from app.platform.database import Database
from app.platform.domain.url_rules import TargetRules, parse_networks, parse_ports
from app.platform.encryption import KeyRing
from app.platform.ports import Clock
from app.settings import Settings, price_book, resolve_secret
from app.settings.domain.routing import key_quota
from app.settings.models import StorageSettings
from app.settings.price_lists import all_calendars, windows_of
from app.settings.topology import build_topology
from app.submission.admit import Admission, Ceiling, LimitsBook, ModelLocations
from app.submission.check_request import SubmissionRules, conditions_of


def cache_rules(settings: Settings) -> CacheRules:
    """The configured cache rules."""
    cache = settings.cache
    return CacheRules(cache.enabled, cache.ttl, cache.longest_ttl, cache.shared, CacheUsage(cache.usage))


def model_versions(settings: Settings) -> Mapping[str, str]:
    """The cache version of each model: it changes with the model's tiers and with its configured version."""
    configured = {model.name: model.version for model in settings.models}
    return {
        name: model_version(
            [[(route.upstream, route.upstream_model) for route in tier] for tier in tiers],
            configured.get(name, ""),
        )
        for name, tiers in build_topology(settings).models.items()
    }


def fallbacks_of(settings: Settings) -> dict[str, Fallback]:
    """What may answer tasks whose tiers cannot, by model."""
    return {
        m.name: Fallback(
            m.degraded.text, m.degraded.after, m.degraded.stale_if_error, always=m.degraded.always
        )
        for m in settings.models
        if m.degraded is not None
    }


def rules_of(settings: Settings) -> SubmissionRules:
    """What the configuration says about submissions."""
    callbacks = settings.callbacks
    return SubmissionRules(
        models=frozenset(model.name for model in settings.models),
        per_media=settings.api.media_tokens,
        aliases={alias: model.name for model in settings.models for alias in model.aliases},
        default_model=settings.default_model,
        policies=frozenset(settings.retry),
        targets=TargetRules(parse_ports(callbacks.ports), parse_networks(callbacks.allow_networks)),
        cache=cache_rules(settings),
        versions=model_versions(settings),
        conditions=conditions_of(settings),
        calendars=all_calendars(settings),
        regions=settings.regions,
        store=settings.storage.store,
        cache_usage={m.name: CacheUsage(m.cache) for m in settings.models if m.cache is not None},
        fallbacks=fallbacks_of(settings),
        windows=windows_of(settings),
    )


def admission_of(settings: Settings, database: Database, clock: Clock, policies: PolicyBook) -> Admission:
    """The process's admission control."""
    limits = LimitsBook(database, clock)
    return Admission(policies, limits, clock, places_of(settings), ceiling_of(settings), longest_of(settings))


def vault_of(storage: StorageSettings, environ: Mapping[str, str]) -> KeyRing | None:
    """The keys that encrypt prompts and results; None: no encryption. Raises ConfigError."""
    if not storage.encryption_key:
        return None
    references = (storage.encryption_key, *storage.previous_keys)
    return KeyRing([resolve_secret(reference, environ).encode() for reference in references])


def places_of(settings: Settings) -> dict[str, ModelLocations]:
    """The upstreams and regions of each model. An upstream without a region is in the region ""."""
    regions = {upstream.name: upstream.region for upstream in settings.upstreams}
    found = {}
    for model, routes in _routes(settings).items():
        upstreams = frozenset(upstream for upstream, _ in routes)
        found[model] = ModelLocations(upstreams, frozenset(regions.get(name, "") for name in upstreams))
    return found


def serving_places(settings: Settings) -> list[ServingPlace]:
    """All routes, as policies about places see them."""
    regions = {upstream.name: upstream.region for upstream in settings.upstreams}
    return [
        ServingPlace(
            model, route.upstream, regions.get(route.upstream, ""), key_quota(route.key, route.upstream_model)
        )
        for model, tiers in build_topology(settings).models.items()
        for tier in tiers
        for route in tier
    ]


def longest_of(settings: Settings) -> dict[str, int]:
    """The maximum tokens of an answer, for models that configure it."""
    return {model.name: model.max_output_tokens for model in settings.models if model.max_output_tokens}


def ceiling_of(settings: Settings) -> Ceiling:
    """The most expensive of a model's routes; None if a price is unknown or currencies differ."""
    book, routes = price_book(settings, {}), _routes(settings)

    def ceiling(model: str, tokens: int, at: float) -> tuple[int, str] | None:
        costs = [book.ceiling(upstream, name, tokens, at) for upstream, name in routes.get(model, ())]
        known = [cost for cost in costs if cost is not None]
        if not known or len(known) < len(costs) or len({cost.currency for cost in known}) > 1:
            return None
        return max(cost.picos for cost in known), known[0].currency

    return ceiling


def _routes(settings: Settings) -> Mapping[str, list[tuple[str, str]]]:
    """Each model's (upstream, upstream model) pairs."""
    upstream_of = {key.name: key.upstream for key in settings.keys}
    return {
        model.name: [
            (upstream_of[route.key], route.upstream_model) for tier in model.routes() for route in tier
        ]
        for model in settings.models
    }
