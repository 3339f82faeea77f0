"""Answers packed by gzip, for who asks. Streams go as they are: they are told piece by piece."""

from __future__ import annotations

import gzip

from flask import Flask, Response
from flask.globals import request_ctx

_SMALLEST = 1_024  # bytes worth it
_LEVEL = 5


def install_compression(app: Flask) -> None:
    """Pack whole answers of some size."""

    @app.after_request
    def pack(response: Response) -> Response:
        asked = request_ctx.request
        named = "gzip" in asked.environ.get("HTTP_ACCEPT_ENCODING", "")
        wanted = named and asked.accept_encodings.quality("gzip") > 0
        if not wanted or response.is_streamed or response.headers.get("Content-Encoding"):
            return response
        data = response.get_data()
        if len(data) >= _SMALLEST:
            response.set_data(gzip.compress(data, _LEVEL))
            response.headers["Content-Encoding"] = "gzip"
            response.vary.add("Accept-Encoding")
        return response
