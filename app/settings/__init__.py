"""The configuration: `penstock.toml`, checked at start, and the environment.

`load_settings` gives immutable values or one ConfigError that names file, line and hint. Secrets stay
references until `resolve_secret` is asked for one. Begin with `models.py`: each setting is explained above its default.
`topology.py` and `domain/` turn the tables into quotas and routes.

Uses `billing` (prices, calendars), `tasks` and `platform`.
"""

from app.settings.config_errors import ConfigError
from app.settings.cost_models import CacheSettings, PriceSettings
from app.settings.judgement_models import BreakerSettings, HealthSettings, LearningSettings, PaceSettings
from app.settings.load import load_settings
from app.settings.models import (
    ApiSettings,
    CallbackSettings,
    KeySettings,
    ModelSettings,
    QuotaSettings,
    RetrySettings,
    RouteSettings,
    Settings,
    UpstreamSettings,
    WorkerSettings,
)
from app.settings.price_lists import price_book
from app.settings.secrets import (
    UpstreamHeaders,
    key_secrets,
    resolve_secret,
    secret_variables,
    upstream_headers,
)

__all__ = [
    "ApiSettings",
    "BreakerSettings",
    "CacheSettings",
    "CallbackSettings",
    "ConfigError",
    "HealthSettings",
    "KeySettings",
    "LearningSettings",
    "ModelSettings",
    "PaceSettings",
    "PriceSettings",
    "QuotaSettings",
    "RetrySettings",
    "RouteSettings",
    "Settings",
    "UpstreamHeaders",
    "UpstreamSettings",
    "WorkerSettings",
    "key_secrets",
    "load_settings",
    "price_book",
    "resolve_secret",
    "secret_variables",
    "upstream_headers",
]
