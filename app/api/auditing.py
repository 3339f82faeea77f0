"""Every call into the audit log, those with a wrong key too. Never a prompt, never a secret."""

from __future__ import annotations

import time
from typing import Any

import orjson
from flask import Flask, Response, g, request

from app.api.gatekeeper import Addresses
from app.domain.access import Caller
from app.domain.audit import Entry
from app.services.ports import Clock
from app.services.record_audit import RecordAudit

_NOBODY = Caller("")
_LEFT_OUT = frozenset({"messages", "prompt", "tools", "functions", "stop", "user", "logit_bias", "metadata"})
_MOST_TEXT = 64
PAGES = "dashboard"  # the blueprint of people's pages
_MOVING = frozenset({f"{PAGES}.static", f"{PAGES}.parts"})
TASK_HEADER = "x-penstock-task"  # of chat calls: the task that answers them


def install_auditing(app: Flask, record: RecordAudit, addresses: Addresses, clock: Clock) -> None:
    """Write an entry behind each call. Administrative ones are stored before they are answered."""

    @app.before_request
    def begin() -> None:
        g.audit_began = time.perf_counter()
        g.audit_at = clock.now()

    @app.after_request
    def end(response: Response) -> Response:
        if _is_told() and not _is_preflight(request.method):
            entry = _entry(response, addresses, clock)
            is_act = request.path.startswith("/v1/admin") and request.method != "GET"
            (record.add_now if is_act else record.add)(entry)
        return response


def note(model: str | None = None, subject: str | None = None, parameters: Any = None) -> None:
    """Tell the entry of the request being served what it is about. Parameters lose whatever could be a prompt."""
    if model is not None:
        g.audit_model = model
    if subject is not None:
        g.audit_subject = subject
    if parameters:
        g.audit_parameters = plain_parameters(parameters)


def plain_parameters(parameters: Any) -> dict[str, Any]:
    """Numbers, truths and short words by name; of everything else only that it was there."""
    found: dict[str, Any] = {}
    for name, value in list(dict(parameters).items())[:40]:
        if name in _LEFT_OUT or len(name) > _MOST_TEXT:
            continue
        is_word = isinstance(value, str) and len(value) <= _MOST_TEXT and value.isidentifier()
        if value is None or isinstance(value, bool | float) or is_word:
            found[name] = value
        elif isinstance(value, int):
            found[name] = value if abs(value) < 2**53 else "large"
        else:
            found[name] = "given"
    return found


def _entry(response: Response, addresses: Addresses, clock: Clock) -> Entry:
    caller: Caller = g.get("caller") or _NOBODY
    rule = request.url_rule.rule if request.url_rule else "unknown"
    began = g.get("audit_began", time.perf_counter())
    parameters = g.get("audit_parameters")
    return Entry(
        at=g.get("audit_at", clock.now()),
        action=f"{request.method} {rule}",
        client_id=caller.client_id,
        team=caller.team,
        user=caller.user,
        key_id=caller.key_id,
        address=g.get("address") or addresses.current(),
        model=_text(g.get("audit_model", "")),
        task_id=_text(g.get("audit_subject") or response.headers.get(TASK_HEADER) or _subject()),
        request_id=str(g.get("request_id", "")),
        status=response.status_code,
        duration_ms=round((time.perf_counter() - began) * 1000),
        details=orjson.dumps(parameters).decode() if parameters else "",
    )


def _is_told() -> bool:
    """Calls, and pages of the dashboard: each that is opened, and each act on it; not what moves by itself on it."""
    if request.path.startswith(("/v1/", "/api/")):
        return True
    return request.blueprint == PAGES and request.endpoint not in _MOVING


def _subject() -> str:
    """What the path names: a task, a batch, a client and its key."""
    return "/".join(str(value) for value in (request.view_args or {}).values())


def _text(value: str) -> str:
    return value[:200].replace("\0", "").encode("utf-8", "replace").decode()


def _is_preflight(method: str) -> bool:
    return method in ("HEAD", "OPTIONS")
