"""The pages: who looks is asked first, then one thing is read and rendered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from flask import Response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue

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
from app.reporting.store import service_queries
from app.submission.retry_tasks import RetryTask
from app.tasks.domain.batch import BatchStatus
from app.tasks.domain.task import Status, may_run_again
from app.tasks.store import batches, tasks
from app.tasks.store.tasks import TaskRow, deliveries_of

_MOST_RETRIES = 100  # tasks run again by one click

Route = tuple[str, Callable[..., ResponseReturnValue], list[str]]


@dataclass(frozen=True, slots=True)
class Actions:
    """What can be done from a page."""

    retry: RetryTask
    letters: DeadLetters


class Views:
    """Views. Whatever belongs to another client looks like what does not exist."""

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
        """Paths and what serves them."""
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
        """From the key to a session. The key is never kept, nor shown again."""
        check_form()
        target = _inside(request.form.get("next", ""))
        try:
            self._auth.let_in(request.form.get("key", "").strip())
        except Unauthenticated:
            said = "This API key is not known here."
            page = render_template("login.html", viewer=None, csrf=form_token(), next=target, said=said)
            return page, 401
        return redirect(target, 303)

    def sign_out(self) -> ResponseReturnValue:
        """End the session."""
        check_form()
        self._auth.let_out()
        return redirect("/login", 303)

    # -- the overview

    def overview(self) -> ResponseReturnValue:
        """How things stand."""
        viewer = self._auth.viewer()
        return self._page("overview.html", viewer, parts=self._live.now(viewer.sees))

    def parts(self) -> ResponseReturnValue:
        """Its parts as JSON, for browsers that find no place on the stream."""
        viewer = self._auth.viewer()
        return Response(orjson.dumps(self._live.now(viewer.sees)), content_type="application/json")

    def live(self) -> ResponseReturnValue:
        """Its parts as they change. 503 while too many follow."""
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
        """From a pasted id to its page."""
        self._auth.viewer()
        wanted = request.args.get("id", "").strip()
        if is_id("task", wanted):
            return redirect(f"/tasks/{wanted}", 303)
        if is_id("batch", wanted):
            return redirect(f"/batches/{wanted}", 303)
        raise NotFound("that is neither the id of a task nor of a batch")

    def task(self, task_id: str) -> ResponseReturnValue:
        """A task's life."""
        viewer = self._auth.viewer()
        row, calls, tries, content = self._database.read(lambda conn: self._read_task(conn, viewer, task_id))
        moments = timeline(_columns(row), map(_columns, calls), map(_columns, tries))
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

    def _read_task(self, conn: Any, viewer: Viewer, task_id: str) -> Any:
        row = tasks.get_task(conn, viewer.sees, task_id) if is_id("task", task_id) else None
        if row is None:
            raise NotFound("There is no such task.")
        calls, tries = tasks.attempts_of(conn, task_id), deliveries_of(conn, task_id)
        return row, calls, tries, service_queries.content_of(conn, row.seq)

    def _why(self, row: TaskRow) -> Explanation:
        return self._explain.explain(Queued.of(row))

    def batch(self, batch_id: str) -> ResponseReturnValue:
        """A batch: progress, failures, its first tasks."""
        viewer = self._auth.viewer("batches:read")

        def read(conn: Any) -> Any:
            row = batches.get_batch(conn, viewer.sees, batch_id) if is_id("batch", batch_id) else None
            if row is None or (row.status is BatchStatus.VALIDATING and row.input_file_id is None):
                raise NotFound("There is no such batch.")
            failed = service_queries.failures_of_batch(conn, batch_id, 50)
            return row, failed, service_queries.tasks_of_batch(conn, batch_id, None, 50)

        row, failed, first = self._database.read(read)
        return self._page(
            "batch.html", viewer, batch=row, failed=failed, first=first, may_run_again=may_run_again
        )

    def usage(self) -> ResponseReturnValue:
        """Tokens and money by client, model and day."""
        viewer = self._auth.viewer("usage:read")
        days = min(90, max(1, request.args.get("days", 7, type=int)))
        report = self._database.read(lambda conn: read_usage(conn, viewer.sees, days, self._clock.now()))
        return self._page("usage.html", viewer, report=report, days=days)

    # -- actions

    def retry(self, task_id: str) -> ResponseReturnValue:
        """Run one task again."""
        viewer = self._doer()
        new = self._actions.retry.retry(viewer.sees, task_id)
        return _done("It runs again as a new task.", f"/tasks/{new}")

    def retry_group(self) -> ResponseReturnValue:
        """Run again what failed for one reason, as far as it is among the latest failures."""
        viewer = self._doer()
        reason, _, model = request.form.get("group", "").partition(" ")
        found = self._database.read(
            lambda conn: service_queries.recent_failures(conn, viewer.sees, _MOST_RETRIES)
        )
        rows = [row for row in found if (row.error_code or row.status) == reason and row.model == model]
        count = sum(self._again(viewer, row.id) for row in rows if _may(row))
        return _done(f"{count} {'task runs' if count == 1 else 'tasks run'} again.", "/")

    def _again(self, viewer: Viewer, task_id: str) -> bool:
        try:
            self._actions.retry.retry(viewer.sees, task_id)
        except Rejected:  # somebody was first
            return False
        return True

    def replay(self, callback_id: str) -> ResponseReturnValue:
        """Send a callback that was given up once more."""
        viewer = self._doer()
        if not self._actions.letters.replay(viewer.sees, callback_id):
            raise NotFound("There is no such callback that was given up.")
        return _done("The callback is sent again.", "/")

    def _doer(self) -> Viewer:
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
    """To scripts JSON; to plain forms the page where it can be seen."""
    if request.accept_mimetypes.best == "application/json":
        return {"message": message, "target": target}
    session["said"] = message
    return redirect(target, 303)


def _may(row: service_queries.FailedRow) -> bool:
    return may_run_again(row.status, row.error_code, row.replaced_by)


def _inside(target: str) -> str:
    """A path of ours to go on to; anything else is the first page."""
    parts = urlsplit(target)
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc
    return target if local and target.isprintable() else "/"


def _columns(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _pretty(text: str | None) -> str:
    """Stored JSON, laid out; cut where it is long."""
    if text is None:
        return ""
    laid_out = orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
    return laid_out if len(laid_out) < 50_000 else laid_out[:50_000] + "\n…"
