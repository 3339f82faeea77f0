"""For WSGI servers: `flask --app app.wsgi run`, `gunicorn app.wsgi:app`. `penstock api` serves it better."""

from __future__ import annotations

from app.api.application import PenstockApi


def create_app() -> PenstockApi:
    """Build the application from PENSTOCK_CONFIG and the environment."""
    from app.api.application import create_app as create
    from app.bootstrap import from_environment

    return create(from_environment())


def __getattr__(name: str) -> PenstockApi:
    """Build `app` when somebody first asks for it: importing this module opens and reads nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    application = create_app()
    globals()["app"] = application
    return application
