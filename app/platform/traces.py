"""Traces by OpenTelemetry, sent by OTLP over HTTP. Imported only where an endpoint is configured.

The standard variables say where and how: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY and the rest. A receiver that is away costs spans, never a task.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.platform.ports import Span, Value

_CONTEXT = TraceContextTextMapPropagator()
_NANOS = 1_000_000_000


class OtelTracer:
    """Implements the Tracer port."""

    enabled = True

    def __init__(self) -> None:
        named: dict[str, str | int] = {"host.name": socket.gethostname(), "process.pid": os.getpid()}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            named["service.name"] = "penstock"
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("penstock")

    @contextmanager
    def span(self, name: str, parent: str | None = None, **attributes: Value) -> Iterator[Span]:
        """While it lasts. What an exception says is not kept: it may quote a prompt."""
        with self._tracer.start_as_current_span(
            name,
            context=_context(parent),
            attributes=_kept(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _Span(span)

    def past(self, name: str, parent: str, began_at: float, ended_at: float, **attributes: Value) -> None:
        """Record a span that has ended already."""
        span = self._tracer.start_span(
            name, context=_context(parent), attributes=_kept(attributes), start_time=int(began_at * _NANOS)
        )
        span.end(end_time=int(max(began_at, ended_at) * _NANOS))

    def follow(self, parent: str) -> Callable[[], None]:
        """Let what this thread does hang on `parent`, until the returned function is called."""
        token = attach(_CONTEXT.extract({"traceparent": parent}, context=Context()))
        return lambda: detach(token)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def set(self, **attributes: Value) -> None:
        self._span.set_attributes(_kept(attributes))


def _context(parent: str | None) -> Context | None:
    """None: what this thread is doing. A parent that is none begins a trace."""
    return None if parent is None else _CONTEXT.extract({"traceparent": parent}, context=Context())


def _kept(attributes: Mapping[str, Value]) -> dict[str, str | int | float | bool]:
    return {f"penstock.{name}": value for name, value in attributes.items() if value is not None}
