"""What every request gets: an id, a trace, and an entry in the audit log.

Calls with an unknown key are logged too; prompts and secrets never are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Request, Response, g, request
from flask.globals import app_ctx, request_ctx
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.access.audit_log import RecordAudit
from app.access.domain.audit import ChainEntry
from app.access.domain.caller import Caller
from app.api.access_control import CallerAddresses, credentials
from app.platform.ports import Clock, Tracer
from app.tasks.domain.task import new_id

_NOBODY = Caller("")
_LEFT_OUT = frozenset({"messages", "prompt", "tools", "functions", "stop", "user", "logit_bias", "metadata"})
# Parameters whose value is one of a provider's own words. A text under any other name may be a prompt: FIM's `suffix`,
# a gateway's `system`, a field that we have never heard of. (Chinese without punctuation looks like one word.)
_WORDS = frozenset(
    {
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "tool_choice",
        "function_call",
        "truncation",
        "modality",
    }
)
_MOST_NAME = 64
_WORD = re.compile("[a-z]{2,12}")
PAGES = "dashboard"  # the blueprint of the dashboard
_REFRESHES = frozenset({f"{PAGES}.static", f"{PAGES}.parts"})
TASK_HEADER = "x-penstock-task"  # of chat calls: the task that answers them


def install_auditing(app: Flask, record: RecordAudit, addresses: CallerAddresses, clock: Clock) -> None:
    """Write an entry for each call. Administrative calls are stored before they are answered."""

    @app.before_request
    def begin() -> None:
        kept = app_ctx.g
        kept.audit_began = time.perf_counter()
        kept.audit_at = clock.now()

    @app.after_request
    def end(response: Response) -> Response:
        asked = request_ctx.request
        if _is_audited(asked) and asked.method != "OPTIONS":
            entry = _entry(asked, response, addresses, clock)
            is_act = asked.path.startswith("/v1/admin") and asked.method not in ("GET", "HEAD")
            (record.add_now if is_act else record.add)(entry)
        return response


def note(model: str | None = None, subject: str | None = None, parameters: Any = None) -> None:
    """Add details to the current request's entry. Parameters that could hold prompt text are left out."""
    if model is not None:
        g.audit_model = model
    if subject is not None:
        g.audit_subject = subject
    if parameters:
        g.audit_parameters = plain_parameters(parameters)


def plain_parameters(parameters: Any) -> dict[str, Any]:
    """Return numbers, booleans and the words of known parameters by name; other values become "given"."""
    found: dict[str, Any] = {}
    for name, value in list(dict(parameters).items())[:40]:
        if name in _LEFT_OUT or len(name) > _MOST_NAME or not name.isascii():
            continue
        is_word = name in _WORDS and isinstance(value, str) and _WORD.fullmatch(value) is not None
        if value is None or isinstance(value, bool | float) or is_word:
            found[name] = value
        elif isinstance(value, int):
            found[name] = value if abs(value) < 2**53 else "large"
        else:
            found[name] = "given"
    return found


def _entry(asked: Request, response: Response, addresses: CallerAddresses, clock: Clock) -> ChainEntry:
    kept = app_ctx.g
    caller: Caller = kept.get("caller") or _NOBODY
    rule = asked.url_rule.rule if asked.url_rule else "unknown"
    now = time.perf_counter()
    parameters = kept.get("audit_parameters")
    return ChainEntry(
        at=kept.get("audit_at") or clock.now(),
        action=f"{asked.method} {rule}",
        client_id=caller.client_id,
        team=caller.team,
        user=caller.user,
        key_id=caller.key_id,
        address=kept.get("address") or addresses.of(asked),
        model=_text(kept.get("audit_model", "")),
        task_id=_text(kept.get("audit_subject") or response.headers.get(TASK_HEADER) or _subject(asked)),
        request_id=str(kept.get("request_id", "")),
        status=response.status_code,
        duration_ms=round((now - kept.get("audit_began", now)) * 1000),
        details=orjson.dumps(parameters).decode() if parameters else "",
    )


def _is_audited(asked: Request) -> bool:
    """Whether the request is an API call or a dashboard page or action, not a page's automatic refresh."""
    if asked.path.startswith(("/v1/", "/api/")):
        return True
    if asked.path == "/metrics":  # open to all; a key shows more, and could be tried here unseen
        return bool(credentials(asked.environ))
    return asked.blueprint == PAGES and asked.endpoint not in _REFRESHES


def _subject(asked: Request) -> str:
    """The ids in the path, such as a task's, or a client's and its key's."""
    return "/".join(str(value) for value in (asked.view_args or {}).values())


def _text(value: str) -> str:
    return value[:200].replace("\0", "").encode("utf-8", "replace").decode()


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
