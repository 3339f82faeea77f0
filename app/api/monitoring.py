"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

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
from app.api.operations import TEXT, Operation, ResponseDoc
from app.api.responses import answer
from app.api.shapes import Health
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.reporting.meter_files import FolderCollector, folder_in_use
from app.reporting.meters import BY_CLIENT, Meters


class Collector(Protocol):
    """Where figures come from."""

    def collect(self) -> Iterable[Metric]:
        """All of them."""


class Metrics:
    """Counts requests, and shows all figures. Those by client are for administrators' keys alone."""

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
        """The exposition. Raises Unauthenticated for a key that is not known."""
        registry = self._all if self._sees_clients() else self._open
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    def _sees_clients(self) -> bool:
        given = request.headers.get("Authorization")
        if not given:
            return False
        try:
            return self._authenticate.caller(given).is_admin
        except DatabaseUnreachable:
            return False  # what this process has counted is wanted most while that is away


class _CollectorGroup:
    """Some collectors as one."""

    def __init__(self, collectors: Iterable[Collector], *, by_client: bool) -> None:
        self._collectors = tuple(collectors)
        self._by_client = by_client

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            for family in collector.collect():
                if self._by_client or not family.name.startswith(BY_CLIENT):
                    yield family


def _own(meters: Meters) -> list[Any]:
    """What processes have counted. In a shared folder nobody's process stands out."""
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


class HealthViews:
    """Probes and figures; none needs a key, none tells anything of a client."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    def operations(self) -> list[Operation]:
        """What is offered."""
        works = {200: ResponseDoc("It works.", Health)}
        return [
            Operation(
                "GET", "/healthz", "Does this process answer?", self.healthz, works, "Operations", public=True
            ),
            Operation(
                "GET",
                "/readyz",
                "Can this process serve? Fails only when the database is out of reach.",
                self.readyz,
                works,
                "Operations",
                refusals=(503,),
                public=True,
            ),
            Operation(
                "GET",
                "/metrics",
                "Figures of this process, for Prometheus.",
                self.metrics,
                {200: ResponseDoc("Prometheus' text format.", media=TEXT)},
                "Operations",
                public=True,
            ),
        ]

    def healthz(self) -> ResponseReturnValue:
        """It answers: that is all."""
        return answer({"status": "ok"})

    def readyz(self) -> ResponseReturnValue:
        """503 without the database; Redis may be away."""
        self._database.ping()
        return answer({"status": "ok"})

    def metrics(self) -> Response:
        """The exposition."""
        return self._metrics.page()
