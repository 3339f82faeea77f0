"""What this process counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Flask, Response, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counts in a registry of its own. Labels are routes, never a caller's text or a secret."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._requests = Counter(
            "penstock_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "penstock_http_request_seconds",
            "From the request's head to the response's head.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.tasks = Counter("penstock_tasks_submitted", "Tasks taken in.", ("way",), registry=self._registry)
        Gauge("penstock_waiters", "Long polls that wait now.", registry=self._registry).set_function(waiting)

    def install(self, app: Flask) -> None:
        """Measure every request."""

        @app.before_request
        def begin() -> None:
            g.began = time.perf_counter()

        @app.after_request
        def end(response: Response) -> Response:
            route = request.url_rule.rule if request.url_rule else "none"
            self._requests.labels(
                request.method if request.url_rule else "other", route, response.status_code
            ).inc()
            self._seconds.labels(route).observe(time.perf_counter() - g.get("began", time.perf_counter()))
            return response

    def page(self) -> Response:
        """The exposition."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_LATEST)
