"""The pages: authenticate the viewer, read, render."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from flask import Response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import TooManyRequests

from app.callbacks.dead_letters import DeadLetters
from app.dashboard.live import LivePages
from app.dashboard.session import SessionAuth, Viewer, check_form, form_token
from app.dashboard.usage import read_usage
from app.pacing.ports import Explain, Explanation, Queued
from app.platform.database import Database
from app.platform.domain.errors import NotFound, PenstockError, Rejected, Unauthenticated
from app.platform.domain.names import is_id
from app.platform.ports import Clock
from app.reporting.domain.dashboard_view import timeline
from app.reporting.read_overview import (
    ReadUsage,
    read_batch_details,
    read_failures,
    read_task_details,
)
from app.submission.retry_tasks import RetryTask
from app.tasks.domain.rows import TaskRow
from app.tasks.domain.task import Status, may_run_again

_MOST_RETRIES = 100  # tasks retried by one click

Route = tuple[str, Callable[..., ResponseReturnValue], list[str]]


@dataclass(frozen=True, slots=True)
class Actions:
    """The use cases behind buttons."""

    retry: RetryTask
    letters: DeadLetters


class Views:
    """The page views. Objects of other clients look nonexistent."""

    def __init__(
        self,
        auth: SessionAuth,
        live: LivePages,
        database: Database,
        clock: Clock,
        explain: Explain,
        actions: Actions,
        flower_url: str,
    ) -> None:
        self._auth = auth
        self._live = live
        self._database = database
        self._clock = clock
        self._explain = explain
        self._actions = actions
        self._flower_url = flower_url

    def routes(self) -> list[Route]:
        """Paths, their views and methods."""
        return [
            ("/", self.overview, ["GET"]),
            ("/login", self.login, ["GET"]),
            ("/login", self.sign_in, ["POST"]),
            ("/logout", self.sign_out, ["POST"]),
            ("/live", self.live, ["GET"]),
            ("/parts", self.parts, ["GET"]),
            ("/find", self.find, ["GET"]),
            ("/usage", self.usage, ["GET"]),
            ("/tasks/<task_id>", self.task, ["GET"]),
            ("/tasks/<task_id>/retry", self.retry, ["POST"]),
            ("/failures/retry", self.retry_group, ["POST"]),
            ("/batches/<batch_id>", self.batch, ["GET"]),
            ("/callbacks/<callback_id>/replay", self.replay, ["POST"]),
        ]

    # -- in and out

    def login(self) -> ResponseReturnValue:
        """The form."""
        return render_template(
            "login.html", viewer=None, csrf=form_token(), next=request.args.get("next", "")
        )

    def sign_in(self) -> ResponseReturnValue:
        """Exchange an API key for a session. The key is neither stored nor shown."""
        check_form()
        target = _inside(request.form.get("next", ""))
        try:
            self._auth.sign_in(request.form.get("key", "").strip(), self._clock.now())
        except Unauthenticated:
            said, status = "Unknown API key. Check it, or create one with: penstock clients add NAME", 401
        except TooManyRequests:
            said, status = "Too many wrong keys from your address. Try again in a minute.", 429
        else:
            return redirect(target, 303)
        page = render_template("login.html", viewer=None, csrf=form_token(), next=target, said=said)
        return page, status

    def sign_out(self) -> ResponseReturnValue:
        """End the session."""
        check_form()
        self._auth.sign_out()
        return redirect("/login", 303)

    # -- the overview

    def overview(self) -> ResponseReturnValue:
        """The overview page."""
        viewer = self._auth.viewer()
        return self._page("overview.html", viewer, parts=self._live.now(viewer.sees))

    def parts(self) -> ResponseReturnValue:
        """The overview's parts as JSON, for browsers that did not get a stream."""
        viewer = self._auth.viewer()
        return Response(orjson.dumps(self._live.now(viewer.sees)), content_type="application/json")

    def live(self) -> ResponseReturnValue:
        """The overview's parts as they change. 503 when there are too many streams."""
        viewer = self._auth.viewer()
        if request.method == "HEAD":
            return Response(content_type="text/event-stream")
        stream = self._live.follow(viewer.sees, lambda: self._still(viewer))
        if stream is None:
            return Response(status=503, headers={"Retry-After": "5"})
        headers = {"X-Accel-Buffering": "no"}
        response = Response(iter(stream), content_type="text/event-stream", headers=headers)
        response.call_on_close(stream.close)
        return response

    def _still(self, viewer: Viewer) -> bool:
        try:
            return self._auth.viewer_of(viewer.ticket).sees == viewer.sees
        except PenstockError:
            return False

    # -- single things

    def find(self) -> ResponseReturnValue:
        """Redirect from an id to its page."""
        self._auth.viewer()
        wanted = request.args.get("id", "").strip()
        if is_id("task", wanted):
            return redirect(f"/tasks/{wanted}", 303)
        if is_id("batch", wanted):
            return redirect(f"/batches/{wanted}", 303)
        raise NotFound("This is not the id of a task or batch.")

    def task(self, task_id: str) -> ResponseReturnValue:
        """The page of a task."""
        viewer = self._auth.viewer()
        found = read_task_details(self._database, viewer.sees, task_id)
        if found is None:
            raise NotFound("This task does not exist.")
        row, content = found.row, found.content
        moments = timeline(_columns(row), map(_columns, found.calls), map(_columns, found.deliveries))
        return self._page(
            "task.html",
            viewer,
            task=row,
            moments=moments,
            why=self._why(row) if row.status is Status.QUEUED else None,
            now=self._clock.now(),
            request_text=_pretty(content.request),
            result_text=_pretty(row.result),
            replaced_by=content.replaced_by,
            again=viewer.may_retry and may_run_again(row.status, row.error_code, content.replaced_by),
        )

    def _why(self, row: TaskRow) -> Explanation:
        return self._explain.explain(Queued.of(row))

    def batch(self, batch_id: str) -> ResponseReturnValue:
        """The page of a batch: progress, failures and first tasks."""
        viewer = self._auth.viewer("batches:read")
        found = read_batch_details(self._database, viewer.sees, batch_id, 50)
        if found is None:
            raise NotFound("This batch does not exist.")
        row, failed, first = found
        return self._page(
            "batch.html", viewer, batch=row, failed=failed, first=first, may_run_again=may_run_again
        )

    def usage(self) -> ResponseReturnValue:
        """Tokens and money by client, model and day."""
        viewer = self._auth.viewer("usage:read")
        days = min(90, max(1, request.args.get("days", 7, type=int)))
        report = read_usage(ReadUsage(self._database), viewer.sees, days, self._clock.now())
        return self._page("usage.html", viewer, report=report, days=days)

    # -- actions

    def retry(self, task_id: str) -> ResponseReturnValue:
        """Run one task again."""
        viewer = self._acting_viewer()
        new = self._actions.retry.retry(viewer.sees, task_id)
        return _done("Retrying as a new task.", f"/tasks/{new}")

    def retry_group(self) -> ResponseReturnValue:
        """Retry the recent failures with the same reason and model."""
        viewer = self._acting_viewer()
        reason, _, model = request.form.get("group", "").partition(" ")
        found = read_failures(self._database, viewer.sees, _MOST_RETRIES)
        rows = [row for row in found if (row.error_code or row.status) == reason and row.model == model]
        count = sum(self._again(viewer, row.id) for row in rows if _may(row))
        return _done(f"Retrying {count} {'task' if count == 1 else 'tasks'}.", "/")

    def _again(self, viewer: Viewer, task_id: str) -> bool:
        try:
            self._actions.retry.retry(viewer.sees, task_id)
        except Rejected:  # somebody else was first
            return False
        return True

    def replay(self, callback_id: str) -> ResponseReturnValue:
        """Replay an undeliverable callback."""
        viewer = self._acting_viewer()
        if not self._actions.letters.replay(viewer.sees, callback_id):
            raise NotFound("This callback does not exist or is not undeliverable.")
        return _done("The callback will be sent again.", "/")

    def _acting_viewer(self) -> Viewer:
        viewer = self._auth.viewer("tasks:write")
        check_form()
        return viewer

    def _page(self, name: str, viewer: Viewer, **more: Any) -> str:
        return render_template(
            name,
            viewer=viewer,
            csrf=form_token(),
            said=session.pop("said", None),
            flower_url=self._flower_url if viewer.administers else "",
            **more,
        )


def _done(message: str, target: str) -> ResponseReturnValue:
    """Return JSON to scripts, and redirect plain forms to the page with the result."""
    if request.accept_mimetypes.best == "application/json":
        return {"message": message, "target": target}
    session["said"] = message
    return redirect(target, 303)


def _may(row: Any) -> bool:
    return may_run_again(row.status, row.error_code, row.replaced_by)


def _inside(target: str) -> str:
    """The target if it is a local path, otherwise the overview."""
    parts = urlsplit(target)
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc
    return target if local and target.isprintable() else "/"


def _columns(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _pretty(text: str | None) -> str:
    """Stored JSON, indented; truncated if long."""
    if text is None:
        return ""
    laid_out = orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
    return laid_out if len(laid_out) < 50_000 else laid_out[:50_000] + "\n…"
