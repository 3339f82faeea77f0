"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
from flask import Flask, Response, request
from flask.globals import app_ctx, request_ctx
from flask.typing import ResponseReturnValue
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric

from app.access.authenticate import Authenticate
from app.api.access_control import credentials
from app.api.openapi import TEXT, Operation, ResponseDoc
from app.api.responses import answer
from app.api.shapes import Health
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, Unreachable
from app.reporting.meter_files import FolderCollector, folder_in_use
from app.reporting.meters import BY_CLIENT, Meters


class Collector(Protocol):
    """Provides metric families."""

    def collect(self) -> Iterable[Metric]:
        """Return all families."""


class Metrics:
    """Counts requests and renders all metrics. Metrics by client are only shown to administrators' keys."""

    def __init__(self, meters: Meters, service: Collector, authenticate: Authenticate) -> None:
        self._meters = meters
        self._authenticate = authenticate
        collectors = [*_own(meters), service]
        self._counting = itertools.count(1)
        self.requests = 0  # answered so far
        self._all = _registry(_CollectorGroup(collectors, by_client=True))
        self._open = _registry(_CollectorGroup(collectors, by_client=False))

    def install(self, app: Flask) -> None:
        """Measure every request."""

        @app.before_request
        def begin() -> None:
            app_ctx.g.began = time.perf_counter()

        @app.after_request
        def end(response: Response) -> Response:
            self.requests = next(self._counting)
            asked, now = request_ctx.request, time.perf_counter()
            rule = asked.url_rule
            method, route = (asked.method, rule.rule) if rule else ("other", "none")
            began = app_ctx.g.get("began", now)
            self._meters.answered(method, route, response.status_code, now - began)
            return response

    def page(self) -> Response:
        """Render the metrics. Raises Unauthenticated for an unknown key."""
        registry = self._all if self._sees_clients() else self._open
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    def _sees_clients(self) -> bool:
        given = credentials(request.environ)
        if not given:
            return False
        try:
            app_ctx.g.caller = caller = self._authenticate.caller(given)  # for the audit log
            return caller.is_admin
        except DatabaseUnreachable:
            return False  # metrics matter most during a database outage


class _CollectorGroup:
    """Several collectors as one."""

    def __init__(self, collectors: Iterable[Collector], *, by_client: bool) -> None:
        self._collectors = tuple(collectors)
        self._by_client = by_client

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            for family in collector.collect():
                if self._by_client or not family.name.startswith(BY_CLIENT):
                    yield family


def _own(meters: Meters) -> list[Any]:
    """The counters of this process, or of all processes that share a folder."""
    folder = folder_in_use()
    if meters.shared and folder is not None:
        return [FolderCollector(folder)]
    process = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=process)
    return [meters.registry, process]


def _registry(shown: _CollectorGroup) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(shown)
    return registry


PROFILE = "PENSTOCK_PROFILE"
"""Set by `penstock up`: the service's address, a space, and the profile that will hold it."""


def profile_written(environ: Mapping[str, str]) -> Callable[[], bool]:
    """Whether the profile that `penstock up` writes names this service; true where it writes none."""
    url, _, path = environ.get(PROFILE, "").partition(" ")
    seen = not path

    def written() -> bool:
        nonlocal seen
        if not seen:
            try:
                seen = orjson.loads(Path(path).read_bytes()).get("url") == url
            except (OSError, ValueError, AttributeError):
                return False
        return seen

    return written


class HealthViews:
    """Probes and metrics. None needs a key, and without one nothing about clients is shown."""

    def __init__(
        self, database: Database, metrics: Metrics, announced: Callable[[], bool] = lambda: True
    ) -> None:
        """`announced`: whether local commands can find this service."""
        self._database = database
        self._metrics = metrics
        self._announced = announced

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        works = {200: ResponseDoc("It works.", Health)}
        return [
            Operation(
                "GET", "/healthz", "Does this process answer?", self.healthz, works, "Operations", public=True
            ),
            Operation(
                "GET",
                "/readyz",
                "Can this process serve? Fails while the database is unreachable and while `penstock up` starts.",
                self.readyz,
                works,
                "Operations",
                refusals=(503,),
                public=True,
            ),
            Operation(
                "GET",
                "/metrics",
                "Metrics for Prometheus.",
                self.metrics,
                {200: ResponseDoc("Prometheus' text format.", media=TEXT)},
                "Operations",
                public=True,
            ),
        ]

    def healthz(self) -> ResponseReturnValue:
        """Always 200."""
        return answer(Health(status="ok"))

    def readyz(self) -> ResponseReturnValue:
        """503 without the database, or before the profile for the commands is written; Redis is not required."""
        self._database.ping()
        if not self._announced():
            raise Unreachable("the service is starting; its profile is not written yet")
        return answer(Health(status="ok"))

    def metrics(self) -> Response:
        """The metrics page."""
        return self._metrics.page()
