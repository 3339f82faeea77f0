"""For WSGI servers: `flask --app app.wsgi run`, `gunicorn app.wsgi:app`. In production, prefer `penstock api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.api.application import PenstockApi

if TYPE_CHECKING:
    from app.api.serve import ReloadableApp


def create_app() -> PenstockApi:
    """Build the application from PENSTOCK_CONFIG and the environment."""
    from app.api.application import create_app as create
    from app.composition.container import from_environment

    return create(from_environment())


def create_reloadable() -> ReloadableApp:
    """Build an application that is replaced when its configuration is reloaded. Call it after the fork."""
    from app.api.application import create_app as create
    from app.api.serve import ReloadableApp
    from app.composition.container import from_environment

    parts = from_environment()
    reloadable = ReloadableApp(lambda settings: create(parts.renewed(settings)), parts.settings)
    parts.follow(reloadable.renew).start()
    return reloadable


def __getattr__(name: str) -> PenstockApi:
    """Build `app` on first access: importing this module opens and reads nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    application = create_app()
    globals()["app"] = application
    return application
