"""Responses: rows as response models, compression, and every failure in one envelope with an x-request-id."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson
import structlog
from flask import Flask, Response, g, has_request_context
from flask.globals import request_ctx
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from app.api.openapi import JSONL
from app.api.paths import not_found_words
from app.api.shapes import Attempt, AttemptList, Delivery, DeliveryList, ResultLine, TaskList
from app.pacing.ports import Explain, Queued
from app.platform.domain.errors import OverLimit, Rejected, Unreachable
from app.platform.domain.json_text import gzipped
from app.platform.domain.times import to_rfc3339
from app.platform.encryption import Unsealable
from app.tasks.domain.rows import AttemptRow, BatchRow, DeliveryAttempt, NewTask, ResultRow, TaskRow
from app.tasks.domain.task import Status
from app.tasks.read_tasks import TaskPage
from app.tasks.views import (
    PRIORITIES,
    Batch,
    Callback,
    Queue,
    Task,
    batch_view,
    cost_of,
    problem,
    raw,
    task_view,
    usage_of,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Page = TypeVar("Page")


class PrebuiltResponse(Response):
    """A response with a complete body and final headers (ASCII, with Content-Length).

    Skips the checks that werkzeug makes on every response.
    """

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:  # noqa: ARG002
        """Return the headers unchanged."""
        return self.headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body in one piece."""
        return () if environ["REQUEST_METHOD"] == "HEAD" else [self.get_data()]


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Build a JSON response from a response model."""
    return PrebuiltResponse(orjson.dumps(value), status, headers, content_type="application/json")


def page(model: Callable[..., Page], data: Sequence[Any], *, has_more: bool) -> Page:
    """A page of a list, with the ids of its first and last objects as cursors."""
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return model(object="list", data=data, has_more=has_more, first_id=first, last_id=last)


_SMALLEST = 1_024  # bytes; smaller bodies are not compressed
_LEVEL = 5


def install_compression(app: Flask) -> None:
    """Compress larger responses with gzip if the client accepts it; of streams only those of JSON lines."""

    @app.after_request
    def pack(response: Response) -> Response:
        asked = request_ctx.request
        named = "gzip" in asked.environ.get("HTTP_ACCEPT_ENCODING", "")
        wanted = named and asked.accept_encodings.quality("gzip") > 0
        if not wanted or response.headers.get("Content-Encoding"):
            return response
        if response.is_streamed:
            return _pack_lines(response)
        data = response.get_data()
        if len(data) >= _SMALLEST:
            response.set_data(gzip.compress(data, _LEVEL))
            response.headers["Content-Encoding"] = "gzip"
            response.vary.add("Accept-Encoding")
        return response


def _pack_lines(response: Response) -> Response:
    if response.mimetype == JSONL:
        response.response = gzipped(response.iter_encoded(), _LEVEL)
        response.headers["Content-Encoding"] = "gzip"
        response.vary.add("Accept-Encoding")
    return response


_CORS_METHODS = "GET, POST, DELETE"
_CORS_SECONDS = "600"  # for which a browser may keep the answer to a preflight


def install_cors(app: Flask, origins: Collection[str]) -> None:
    """Let pages of these origins ("*": of any) call the API from a browser; answer their preflight requests."""

    @app.before_request
    def preflight() -> Response | None:
        asked = request_ctx.request
        if asked.method != "OPTIONS" or "Access-Control-Request-Method" not in asked.headers:
            return None
        if not _allows(origins, asked.headers.get("Origin")):
            return error_response(
                403,
                "pages of this origin may not call the API from a browser: add it to [access] cors_origins",
                code="origin_not_allowed",
            )
        return Response(status=204, headers=_preflight_headers(asked.headers))

    @app.after_request
    def allow(response: Response) -> Response:
        origin = request_ctx.request.headers.get("Origin") if origins else None
        if origin is not None:
            response.vary.add("Origin")
        if origin is not None and _allows(origins, origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "*"
        return response


def _allows(origins: Collection[str], origin: str | None) -> bool:
    return origin is not None and ("*" in origins or origin in origins)


def _preflight_headers(asked: Headers) -> dict[str, str]:
    found = {
        "Access-Control-Allow-Methods": _CORS_METHODS,
        "Access-Control-Allow-Headers": asked.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": _CORS_SECONDS,
    }
    if "Access-Control-Request-Private-Network" in asked:
        found["Access-Control-Allow-Private-Network"] = "true"
    return found


log = structlog.get_logger(__name__)

SHOULD_RETRY = "x-should-retry"  # takes precedence over the status in OpenAI clients
_UNREACHABLE = "the service cannot reach its database; nothing was accepted, try again later"
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
    """Encode the error envelope."""
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
    """Build an error response."""
    body = envelope(message, type_=type_, param=param, code=code)
    return Response(body, status, dict(headers or {}), content_type="application/json")


def install_errors(app: Flask) -> None:
    """Render exceptions as error responses. Unexpected ones are logged and their details not shown."""
    app.register_error_handler(Rejected, _rejected)
    app.register_error_handler(Unreachable, _unreachable)
    app.register_error_handler(Unsealable, _unsealable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _rejected(error: Rejected) -> Response:
    headers = _MORE_HEADERS.get(error.status, {})
    if isinstance(error, OverLimit):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if error.status in (408, 409):  # OpenAI clients retry these by default, in vain here
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
    """Our messages where the framework's are written for browsers."""
    if status == 404:
        return not_found_words(request_ctx.request.path, request_ctx.request.host_url)
    if status == 405:
        return f"this path takes {headers.get('Allow', 'other methods')}; see /docs"
    return None


def _unexpected(error: Exception) -> Response:
    log.error("request_failed", request_id=_request_id(), exc_info=error)
    return _internal()


def _internal() -> Response:
    return error_response(
        500,
        "internal error; give the operator the x-request-id of this response to find it in the logs",
        type_="server_error",
        code="internal",
    )


def _request_id() -> Any:
    return g.get("request_id") if has_request_context() else None


class Rendering:
    """Renders rows in the API's format, with the reason why a queued task waits."""

    def __init__(self, explain: Explain) -> None:
        self._explain = explain

    def task(self, row: TaskRow) -> Task:
        """Render a task."""
        queue = self._queue(row) if row.status is Status.QUEUED else None
        return task_view(row, result=row.result, queue=queue, callback_status=row.callback_status)

    def new_task(self, row: NewTask) -> Task:
        """Render a task that was just stored, without querying the database."""
        starts_at = to_rfc3339(row.estimated_start_at)
        return Task(
            id=row.id,
            object="task",
            status="queued",
            model=row.model,
            created_at=to_rfc3339(row.created_at),
            started_at=None,
            finished_at=None,
            attempts=0,
            batch_id=row.batch_id,
            custom_id=row.custom_id,
            priority=PRIORITIES[row.step],
            result=None,
            error=None,
            usage=None,
            cost=None,
            cached=False,
            coalesced=False,
            simulated=False,
            finish=None,
            degraded=False,
            changes=[],
            queue=Queue(position=None, estimated_start_at=starts_at, waiting_for=None),
            callback=Callback(url=row.callback_url, status=None) if row.callback_url else None,
            metadata=raw(row.metadata),
        )

    def tasks(self, found: TaskPage) -> TaskList:
        """Render a page of tasks."""
        return page(TaskList, [self.task(row) for row in found.rows], has_more=found.has_more)

    def attempts(self, rows: Iterable[AttemptRow]) -> AttemptList:
        """Render the upstream calls of a task."""
        return AttemptList(object="list", data=[_attempt(number, row) for number, row in enumerate(rows, 1)])

    def deliveries(self, rows: Iterable[DeliveryAttempt]) -> DeliveryList:
        """Render the delivery attempts of a task's callbacks."""
        return DeliveryList(object="list", data=[_delivery(row) for row in rows])

    def batch(self, row: BatchRow) -> Batch:
        """Render a batch."""
        return batch_view(row, callback_status=row.callback_status)

    def result_line(self, row: ResultRow) -> bytes:
        """Render one line of results, including its newline."""
        line = ResultLine(
            index=row.batch_index,
            custom_id=row.custom_id,
            task_id=row.task_id,
            status=row.status.value,
            result=raw(row.result),
            error=problem(row),
            finish=cast("Any", row.finish),
            usage=usage_of(row),
            cost=cost_of(row),
        )
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def _queue(self, row: TaskRow) -> Queue:
        why = self._explain.explain(Queued.of(row))
        return Queue(
            position=why.position,
            estimated_start_at=to_rfc3339(why.estimated_start_at),
            waiting_for=why.waiting_for,
        )


def _attempt(number: int, row: AttemptRow) -> Attempt:
    return Attempt(
        object="attempt",
        number=number,
        outcome=row.outcome,
        counted=row.counted,
        key=row.key,
        upstream_model=row.upstream_model,
        status_code=row.status_code,
        error_message=row.error_message,
        upstream_request_id=row.upstream_request_id,
        started_at=to_rfc3339(row.started_at),
        first_byte_at=to_rfc3339(row.first_byte_at),
        finished_at=to_rfc3339(row.finished_at),
        usage=usage_of(row),
        cost=cost_of(row),
    )


def _delivery(row: DeliveryAttempt) -> Delivery:
    return Delivery(
        object="delivery",
        callback_id=row.callback_id,
        type=row.type,
        url=row.url,
        number=row.number,
        started_at=to_rfc3339(row.started_at),
        finished_at=to_rfc3339(row.finished_at),
        status_code=row.status_code,
        error=row.error,
    )
