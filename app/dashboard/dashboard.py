"""Installs the dashboard in the application: pages, sessions, live updates and readable errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import structlog
from flask import Blueprint, Flask, Response, g, redirect, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from app.access.authenticate import Authenticate, KeepSession
from app.callbacks.dead_letters import DeadLetters
from app.callbacks.domain.callback import CallbackNotifier, NoCallbackNotifier
from app.dashboard.live import LivePages
from app.dashboard.pages import Actions, Views
from app.dashboard.rendering import FILTERS, render_parts
from app.dashboard.session import Admit, SessionAuth, install_sessions
from app.pacing.ports import Explain
from app.platform.database import Database
from app.platform.domain.errors import Rejected, Unauthenticated, Unreachable
from app.platform.domain.url_rules import parse_networks
from app.platform.encryption import Unsealable
from app.platform.ports import Clock
from app.reporting.read_overview import ReadOverview
from app.reporting.read_service import ServiceReader
from app.settings import Settings
from app.settings.topology import build_topology
from app.submission.retry_tasks import RetryTask

MOST_STREAMS = 32
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
log = structlog.get_logger(__name__)


def install_dashboard(
    app: Flask,
    *,
    settings: Settings,
    database: Database,
    clock: Clock,
    authenticate: Authenticate,
    admit: Admit,
    retry: RetryTask,
    service: ServiceReader,
    explain: Explain,
    notifier: CallbackNotifier | None = None,
) -> LivePages:
    """Add the pages. Opens nothing; the reader thread starts with the first live viewer."""
    admin_key = settings.admin_key.get_secret_value() if settings.admin_key else None
    flower_url = (settings.flower_url or "").rstrip("/")
    runbook = settings.alerts.runbook if settings.alerts.runbook.startswith(("https:", "http:")) else ""
    app.jinja_env.filters.update(FILTERS)
    install_sessions(app, admin_key)
    live = LivePages(
        ReadOverview(service, build_topology(settings)),
        lambda overview: render_parts(app.jinja_env, overview, flower_url, runbook),
        clock,
        most=min(MOST_STREAMS, max(1, (settings.api.threads - settings.api.waiters) // 2)),
    )
    actions = Actions(
        retry,
        DeadLetters(database, notifier or NoCallbackNotifier(), clock),
    )
    auth = SessionAuth(
        KeepSession(database, authenticate, clock, admin_key),
        admit,
        parse_networks(settings.access.trusted_proxies),
    )
    pages = Views(auth, live, database, clock, explain, actions, flower_url)
    app.register_blueprint(_blueprint(pages))
    return live


def _blueprint(pages: Views) -> Blueprint:
    blueprint = Blueprint(
        "dashboard", __name__, template_folder="templates", static_folder="static", static_url_path="/assets"
    )
    for path, view, methods in pages.routes():
        blueprint.add_url_rule(path, endpoint=f"{view.__name__}", view_func=view, methods=methods)
    blueprint.after_request(_secure)
    handlers: tuple[tuple[type[Exception], Callable[[Any], ResponseReturnValue]], ...] = (
        (Unauthenticated, _to_login),
        (Rejected, _rejected),
        (Unreachable, _unreachable),
        (Unsealable, _unsealable),
        (HTTPException, _http),
        (Exception, _unexpected),
    )
    for error, handler in handlers:
        blueprint.register_error_handler(error, handler)
    return blueprint


def _secure(response: Response) -> Response:
    """Set security headers; only static files may be cached."""
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    if request.endpoint == "dashboard.static":
        response.headers["Cache-Control"] = "max-age=3600"
    else:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _to_login(error: Unauthenticated) -> ResponseReturnValue:
    if _wants_json() or request.path == "/live":
        return {"message": error.message}, 401
    target = request.full_path.rstrip("?") if request.method == "GET" and request.path != "/" else ""
    return redirect(f"/login?{urlencode({'next': target})}" if target else "/login", 303)


def _rejected(error: Rejected) -> ResponseReturnValue:
    return _problem(error.status, error.message)


def _unreachable(error: Unreachable) -> ResponseReturnValue:  # noqa: ARG001
    return _problem(503, "The database is not reachable. Nothing is lost; try again in a moment.")


def _unsealable(error: Unsealable) -> ResponseReturnValue:
    log.error("content_key_missing", request_id=g.get("request_id"), reason=str(error))
    return _problem(500, f"This content cannot be decrypted: {error}.")


def _http(error: HTTPException) -> ResponseReturnValue:
    return _problem(error.code or 500, error.description or error.name)


def _unexpected(error: Exception) -> ResponseReturnValue:
    log.error("page_failed", request_id=g.get("request_id"), kind=type(error).__name__, path=request.endpoint)
    return _problem(500, f"Internal error. It is logged with the request id {g.get('request_id')}.")


def _problem(status: int, message: str) -> ResponseReturnValue:
    if _wants_json():
        return {"message": message}, status
    return render_template("problem.html", status=status, message=message, viewer=None), status


def _wants_json() -> bool:
    return request.accept_mimetypes.best == "application/json"
