"""Writing responses: JSON, compression, and every failure in one envelope with an x-request-id."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from flask import Flask, Response, g, has_request_context
from flask.globals import request_ctx
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from app.platform.domain.errors import OverLimit, Rejected, Unreachable
from app.platform.domain.json_text import one_line
from app.platform.encryption import Unsealable

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


log = structlog.get_logger(__name__)

SHOULD_RETRY = "x-should-retry"  # what the OpenAI clients obey above all else
_UNREACHABLE = "the service cannot reach its database now; nothing was accepted, try again"
_MORE_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "5"},
}
_NAMES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    411: "length_required",
    413: "request_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
}


def envelope(message: str, *, type_: str, param: str | None = None, code: str | None = None) -> bytes:
    """Write the envelope."""
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}})


def error_response(
    status: int,
    message: str,
    *,
    type_: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An envelope with its status."""
    body = envelope(message, type_=type_, param=param, code=code)
    return Response(body, status, dict(headers or {}), content_type="application/json")


def install_errors(app: Flask) -> None:
    """Render whatever a view raises. What nobody foresaw is logged and told to nobody."""
    app.register_error_handler(Rejected, _rejected)
    app.register_error_handler(Unreachable, _unreachable)
    app.register_error_handler(Unsealable, _unsealable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unforeseen)


def _rejected(error: Rejected) -> Response:
    headers = _MORE_HEADERS.get(error.status, {})
    if isinstance(error, OverLimit):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if error.status in (408, 409):  # the OpenAI clients repeat these by themselves: it would be refused again
        headers = {**headers, SHOULD_RETRY: "false"}
    return error_response(
        error.status, error.message, type_=error.type, param=error.param, code=error.code, headers=headers
    )


def _unreachable(error: Unreachable) -> Response:
    retry_after = str(max(1, math.ceil(error.retry_after)))
    return error_response(
        503,
        _UNREACHABLE,
        type_="server_error",
        code="database_unreachable",
        headers={"Retry-After": retry_after},
    )


def _unsealable(error: Unsealable) -> Response:
    log.error("content_key_missing", request_id=_request_id(), reason=str(error))
    return error_response(500, str(error), type_="server_error", code="content_key_missing")


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if status >= 500:
        return _internal()
    headers = {
        name: value for name, value in error.get_headers() if name in ("Allow", "Location", "Retry-After")
    }
    type_ = "not_found_error" if status == 404 else "invalid_request_error"
    message = _message(status, headers) or error.description or error.name
    return error_response(status, message, type_=type_, code=_NAMES.get(status), headers=headers)


def _message(status: int, headers: Mapping[str, str]) -> str | None:
    """Words of our own where the framework's speak to people with a browser."""
    if status == 404:
        return "there is nothing at this path; see /docs"
    if status == 405:
        return f"this path takes {headers.get('Allow', 'other methods')}; see /docs"
    return None


def _unforeseen(error: Exception) -> Response:
    log.error("request_failed", request_id=_request_id(), exc_info=error)
    return _internal()


def _internal() -> Response:
    return error_response(
        500,
        "something went wrong here; the x-request-id names it in our logs",
        type_="server_error",
        code="internal",
    )


def _request_id() -> Any:
    return g.get("request_id") if has_request_context() else None
