"""Writing answers: JSON by orjson, and what every one of them has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from flask import Response
from werkzeug.datastructures import Headers

from app.platform.domain.json_text import one_line

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class PrebuiltResponse(Response):
    """A response that is made in one piece, of headers that may be sent as they are: ASCII, a length among them.

    Werkzeug would look for both in every response, and close each when it has been sent.
    """

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:  # noqa: ARG002
        """Those that it has."""
        return self.headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Its one piece."""
        return () if environ["REQUEST_METHOD"] == "HEAD" else [self.get_data()]


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, of a status that has a body. Stored JSON text goes in as orjson.Fragment, unparsed."""
    return PrebuiltResponse(orjson.dumps(value), status, headers, content_type="application/json")


def raw(text: str | None) -> orjson.Fragment | None:
    """Stored JSON text, to be written out on one line."""
    return None if text is None else orjson.Fragment(one_line(text))
