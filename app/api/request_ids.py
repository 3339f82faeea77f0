"""A request id and a trace for every request."""

from __future__ import annotations

import re
from collections.abc import Callable

from flask import Flask, Response, g, request
from flask.globals import app_ctx, request_ctx
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.platform.ports import Clock, Tracer
from app.tasks.domain.task import new_id

HEADER = "x-request-id"
_GIVEN = "HTTP_X_REQUEST_ID"  # its WSGI name
_NAMED = ("task_id", "batch_id")  # path parameters that are logged
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def install_request_ids(app: Flask, clock: Clock) -> None:
    """Assign each request an id, the client's own if well-formed, and return it in the response."""

    @app.before_request
    def name_request() -> None:
        asked, kept = request_ctx.request, app_ctx.g
        given = asked.environ.get(_GIVEN, "")
        kept.request_id = given if _WELL_FORMED.fullmatch(given) else new_id("req", clock.now())
        named = {name: value for name, value in (asked.view_args or {}).items() if name in _NAMED}
        clear_contextvars()  # left by the previous request in this thread
        bind_contextvars(request_id=kept.request_id, **named)

    @app.after_request
    def name_response(response: Response) -> Response:
        response.headers[HEADER] = app_ctx.g.get("request_id") or new_id("req", clock.now())
        return response


def install_following(app: Flask, tracer: Tracer) -> None:
    """Continue the trace named by `traceparent` (W3C Trace Context) during each request, if tracing is enabled."""
    if not tracer.enabled:
        return

    @app.before_request
    def follow() -> None:
        if parent := request.headers.get("traceparent"):
            g.leave_trace = tracer.follow(parent)

    @app.teardown_request
    def leave(_error: BaseException | None) -> None:
        leave: Callable[[], None] | None = g.pop("leave_trace", None)
        if leave is not None:
            leave()
