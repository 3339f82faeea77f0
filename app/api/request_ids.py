"""A name for every request: the caller's own where it is well-formed, else one of ours."""

from __future__ import annotations

import re

from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.domain.task import new_id
from app.services.ports import Clock

HEADER = "x-request-id"
_NAMED = ("task_id", "batch_id")  # what the path may name
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def install_request_ids(app: Flask, clock: Clock) -> None:
    """Name each request before, and its response after."""

    @app.before_request
    def name_request() -> None:
        asked = request.headers.get(HEADER, "")
        g.request_id = asked if _WELL_FORMED.fullmatch(asked) else new_id("req", clock.now())
        told = {name: value for name, value in (request.view_args or {}).items() if name in _NAMED}
        clear_contextvars()  # of the request before, in this thread
        bind_contextvars(request_id=g.request_id, **told)

    @app.after_request
    def name_response(response: Response) -> Response:
        response.headers[HEADER] = g.get("request_id") or new_id("req", clock.now())
        return response
