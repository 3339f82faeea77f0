"""Requests that belong to a trace already: what they submit goes on in it (W3C Trace Context)."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, g, request

from app.platform.ports import Tracer


def install_following(app: Flask, tracer: Tracer) -> None:
    """Take up the `traceparent` of each request, until it has been answered. Nothing without a tracer."""
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
