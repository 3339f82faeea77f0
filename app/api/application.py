"""The Flask application."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask, Response
from flask.typing import ResponseReturnValue

from app.api.access_control import AccessControl, CallerAddresses, Callers, credentials
from app.api.admin_access import AccessViews
from app.api.admin_clients import ClientViews
from app.api.admin_dispatcher import DispatcherViews
from app.api.auditing import install_auditing, install_following, install_request_ids
from app.api.batches import BatchViews, SteeringViews
from app.api.chat import DEPLOYMENT, ChatViews, ModelViews
from app.api.dead_letters import DeadLetterViews
from app.api.events import EventViews
from app.api.monitoring import HealthViews, Metrics, profile_written
from app.api.openai_batches import FileViews, OpenAiBatchViews
from app.api.openapi import Operation, add_routes, docs_html, docs_page, openapi
from app.api.paths import canonical
from app.api.responses import Rendering, install_compression, install_cors, install_errors
from app.api.stored_chats import StoredChatViews
from app.api.tasks import RetryViews, TaskViews
from app.api.usage import EstimateViews, UsageViews
from app.api.warming import CacheViews, WarmViews
from app.composition.api import (
    Dependencies,
    OpenAiUseCases,
    UseCases,
    build_openai_use_cases,
    build_use_cases,
)
from app.dashboard.dashboard import install_dashboard
from app.dashboard.live import LivePages
from app.pacing.ports import NoExplanation
from app.platform.ports import NoTracer
from app.reporting.meters import ServiceFigures
from app.reporting.read_overview import ReadUsage
from app.reporting.read_service import ReadServiceStatus
from app.reporting.watch_alerts import AlertLoop
from app.settings.price_lists import peak_calendar
from app.submission.submission_rules import ceiling_of, longest_of, rules_of
from app.submission.warm_cache import WarmCache

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class PenstockApi(Flask):
    """The application with its use cases and background work."""

    access_control: AccessControl
    use_cases: UseCases
    openai: OpenAiUseCases
    live: LivePages
    watch: AlertLoop | None = None

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request at the path that its client means."""
        path = environ.get("PATH_INFO", "")
        # A browser shows no key: /batches/ID is a page of the dashboard, as well as an OpenAI client without /v1.
        if credentials(environ) or not path.startswith("/batches/"):
            environ["PATH_INFO"], environ[DEPLOYMENT] = canonical(path)
        return super().wsgi_app(environ, start_response)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return `func`: no view is a coroutine, so that checking each one per request is unnecessary."""
        return func

    def start(self) -> None:
        """Start background work: alerting while no leader is running."""
        if self.watch is not None:
            self.watch.start()

    def drain(self) -> None:
        """Answer all long polls at once and end the dashboard's streams; new long polls do not wait."""
        self.use_cases.waiters.close()
        self.live.end_streams()

    def close(self) -> None:
        """Stop the threads that requests have started. The caller closes the dependencies."""
        if self.watch is not None:
            self.watch.close()
        self.live.close()
        self.use_cases.watch.close()
        self.openai.close()
        self.use_cases.submit_task.close()
        self.use_cases.record_audit.close()


def create_app(parts: Dependencies) -> PenstockApi:
    """Build the application. Opens no connections: they come with requests."""
    app = PenstockApi(__name__, static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would bypass our error envelope
    app.use_cases = build_use_cases(parts)
    app.openai = build_openai_use_cases(app.use_cases, parts)
    app.access_control = AccessControl(
        app.use_cases.policies, parts.rates, parts.clock, parts.settings.access
    )
    metrics = _add_metrics(app, parts)
    install_request_ids(app, parts.clock)
    install_following(app, getattr(parts, "tracer", None) or NoTracer())
    install_errors(app)
    _install_access(app, parts)
    operations = _operations(app, parts, metrics)
    add_routes(app, operations)
    _add_documents(app, operations)
    _add_dashboard(app, parts)
    return app


def _operations(app: PenstockApi, parts: Dependencies, metrics: Metrics) -> list[Operation]:
    use_cases, openai, access_control = app.use_cases, app.openai, app.access_control
    callers, rendering, limits = (
        Callers(use_cases.authenticate, access_control),
        Rendering(use_cases.explain),
        parts.settings.api,
    )
    return [
        *TaskViews(use_cases, callers, rendering, limits.max_task_body).operations(),
        *RetryViews(use_cases, callers, rendering).operations(),
        *BatchViews(use_cases, openai.estimate_batch, callers, rendering, limits).operations(),
        *ChatViews(openai, callers, rendering, limits).operations(),
        *StoredChatViews(use_cases, callers).operations(),
        *ModelViews(callers, parts.settings).operations(),
        *FileViews(openai, callers, limits).operations(),
        *OpenAiBatchViews(openai, callers).operations(),
        *SteeringViews(openai, callers, rendering).operations(),
        *EventViews(openai, callers, rendering).operations(),
        *ClientViews(use_cases, callers).operations(),
        *AccessViews(use_cases, callers, access_control.zones).operations(),
        *DispatcherViews(use_cases, callers).operations(),
        *WarmViews(
            WarmCache(
                parts.database,
                use_cases.submit_task,
                rules_of(parts.settings),
                ceiling_of(parts.settings),
                parts.clock,
                longest_of(parts.settings),
            ),
            callers,
            peak_calendar(parts.settings),
            parts.clock,
            limits.max_task_body,
        ).operations(),
        *CacheViews(
            ReadUsage(parts.database), parts.answers, parts.settings.cache, callers, parts.clock
        ).operations(),
        *UsageViews(parts.database, callers, parts.clock).operations(),
        *EstimateViews(parts.database, callers).operations(),
        *DeadLetterViews(use_cases, callers).operations(),
        *HealthViews(parts.database, metrics, profile_written(os.environ)).operations(),
    ]


def _add_metrics(app: PenstockApi, parts: Dependencies) -> Metrics:
    """Count requests from here on."""
    status = ReadServiceStatus(app.use_cases.service)
    clients = parts.settings.metrics.clients
    metrics = Metrics(parts.meters, ServiceFigures(status.read, clients), app.use_cases.authenticate)
    parts.meters.watch("penstock_waiters", lambda: app.use_cases.waiters.count)
    metrics.install(app)
    keep_alerts = getattr(parts, "keep_alerts", None)  # absent in tests
    if keep_alerts is not None:
        app.watch = keep_alerts(requests=lambda: metrics.requests)
    return metrics


def _install_access(app: PenstockApi, parts: Dependencies) -> None:
    install_compression(app)
    install_cors(app, parts.settings.access.cors_origins)
    app.access_control.install(app)
    install_auditing(app, app.use_cases.record_audit, CallerAddresses(parts.settings.access), parts.clock)


def _add_documents(app: Flask, operations: list[Operation]) -> None:
    document = openapi(operations, version())
    encoded = orjson.dumps(document, option=orjson.OPT_INDENT_2)

    def as_json() -> ResponseReturnValue:
        return Response(encoded, content_type="application/json")

    @cache  # it costs 20 ms to render, and needs no key
    def page() -> str:
        return docs_html(document)

    def as_page() -> ResponseReturnValue:
        return docs_page(page())

    app.add_url_rule("/openapi.json", "openapi", as_json)
    app.add_url_rule("/docs", "docs", as_page)


def _add_dashboard(app: PenstockApi, parts: Dependencies) -> None:
    app.live = install_dashboard(
        app,
        settings=parts.settings,
        database=parts.database,
        clock=parts.clock,
        authenticate=app.use_cases.authenticate,
        admit=app.access_control.admit_page,
        retry=app.use_cases.retry_task,
        service=app.use_cases.service,
        notifier=getattr(parts, "callback_notifier", None),
        explain=parts.explain or NoExplanation(),
    )


def version() -> str:
    """The installed version; `0` when run from a source tree."""
    try:
        return metadata.version("penstock")
    except metadata.PackageNotFoundError:
        return "0"
