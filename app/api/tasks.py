"""/v1/tasks: one prompt per task, and failed tasks run again."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue
from pydantic import Field

from app.api.access_control import Callers, Repeats
from app.api.auditing import note
from app.api.body import ONE_TASK, TasksQuery, WaitQuery, read_body, read_model, read_query, watch_peer
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import Rendering, answer
from app.api.shapes import AttemptList, Deleted, DeliveryList, Refused, RetriedTasks, TaskList
from app.composition.api import UseCases
from app.platform.domain.errors import Invalid
from app.submission.bodies import Body, Instant, Name, TaskBody, option_headers, with_options
from app.submission.validation import parse, parse_json
from app.tasks.views import Task

_SOON = "2"  # seconds until a client should poll again


class TaskViews:
    """The /v1/tasks operations."""

    def __init__(self, use_cases: UseCases, callers: Callers, rendering: Rendering, most: int) -> None:
        """`most` bytes of one body."""
        self._use_cases = use_cases
        self._callers = callers
        self._rendering = rendering
        self._most = most

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        one = {200: ResponseDoc("The task.", Task)}
        return [
            Operation(
                "POST",
                "/v1/tasks",
                "Submit one prompt.",
                self.submit,
                {202: ResponseDoc("Stored durably; it will run. See Location and Retry-After.", Task)},
                body=TaskBody,
                refusals=(413,),
                repeatable=True,
            ),
            Operation(
                "GET",
                "/v1/tasks",
                "List tasks, newest first.",
                self.list,
                {200: ResponseDoc("A page.", TaskList)},
                query=TasksQuery,
            ),
            Operation(
                "GET",
                "/v1/tasks/{task_id}",
                "Retrieve a task, or wait for it to end.",
                self.show,
                one,
                description="With `wait`, responds as soon as the task has ended. If too many requests wait already, "
                "responds at once with the current state.",
                query=WaitQuery,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/tasks/{task_id}/cancel",
                "Cancel a task.",
                self.cancel,
                one,
                description="A waiting task is cancelled at once. A running call is not interrupted: if it succeeds, "
                "its result is kept, otherwise the task ends as `cancelled`.",
                refusals=(404, 409),
            ),
            Operation(
                "DELETE",
                "/v1/tasks/{task_id}",
                "Delete a task, its prompt and its result.",
                self.delete,
                {200: ResponseDoc("No longer visible; its rows are deleted in the background.", Deleted)},
                description="A waiting task is cancelled. A running call is not interrupted; its result is discarded.",
                refusals=(404,),
            ),
            Operation(
                "GET",
                "/v1/tasks/{task_id}/attempts",
                "List the upstream calls made for a task.",
                self.attempts,
                {200: ResponseDoc("All of them, in order.", AttemptList)},
                refusals=(404,),
            ),
            Operation(
                "GET",
                "/v1/tasks/{task_id}/deliveries",
                "List the delivery attempts of a task's callbacks.",
                self.deliveries,
                {200: ResponseDoc("All of them, in order.", DeliveryList)},
                refusals=(404,),
            ),
        ]

    def submit(self) -> ResponseReturnValue:
        """202 after the commit."""
        caller = self._callers.current()
        repeats = Repeats("POST /v1/tasks")
        value = parse_json(repeats.add(read_body(self._most, ONE_TASK)))
        body = parse(TaskBody, with_options(value, option_headers(request.headers.items())))
        note(body.model or self._use_cases.submit_batch.default_model, parameters=body.parameters)
        submitted = self._use_cases.submit_task.submit(caller.client_id, body.request(), repeats.repeat())
        note(subject=submitted.task_id)
        headers = {"Location": f"/v1/tasks/{submitted.task_id}", "Retry-After": _SOON}
        if submitted.row is None:
            headers["Idempotent-Replayed"] = "true"
            row = self._use_cases.read_tasks.task(caller.client_id, submitted.task_id)
            return answer(self._rendering.task(row), 202, headers)
        if submitted.answered:
            row = self._use_cases.read_tasks.task(caller.client_id, submitted.task_id)
            return answer(self._rendering.task(row), 202, {"Location": headers["Location"]})
        return answer(self._rendering.new_task(submitted.row), 202, headers)

    def list(self) -> ResponseReturnValue:
        """A page, newest first."""
        caller = self._callers.current()
        query = read_query(TasksQuery)
        page = self._use_cases.read_tasks.page(
            caller.client_id,
            status=query.status,
            reason=query.reason,
            batch_id=query.batch_id,
            after=query.after,
            limit=query.limit,
        )
        return answer(self._rendering.tasks(page))

    def show(self, task_id: str) -> ResponseReturnValue:
        """The task, now or when it has ended."""
        caller = self._callers.current()
        query = read_query(WaitQuery)
        if query.wait > 0:
            gone = watch_peer(request.environ)
            row = self._use_cases.wait_for_task.wait(caller.client_id, task_id, query.wait, gone)
        else:
            row = self._use_cases.read_tasks.task(caller.client_id, task_id)
        headers = {} if row.status.ended else {"Retry-After": _SOON}
        return answer(self._rendering.task(row), 200, headers)

    def cancel(self, task_id: str) -> ResponseReturnValue:
        """The task after the request to cancel it."""
        caller = self._callers.current()
        self._use_cases.cancel_task.cancel(caller.client_id, task_id)
        return answer(self._rendering.task(self._use_cases.read_tasks.task(caller.client_id, task_id)))

    def delete(self, task_id: str) -> ResponseReturnValue:
        """Hide the task; its rows are deleted later."""
        caller = self._callers.current()
        self._use_cases.delete_task.delete(caller.client_id, task_id)
        return answer(Deleted(id=task_id, object="task.deleted", deleted=True))

    def attempts(self, task_id: str) -> ResponseReturnValue:
        """The upstream calls."""
        caller = self._callers.current()
        return answer(
            self._rendering.attempts(self._use_cases.read_tasks.attempts(caller.client_id, task_id))
        )

    def deliveries(self, task_id: str) -> ResponseReturnValue:
        """The delivery attempts of its callbacks."""
        caller = self._callers.current()
        return answer(
            self._rendering.deliveries(self._use_cases.read_tasks.deliveries(caller.client_id, task_id))
        )


class RetryBody(Body):
    """Which tasks to run again; at least one of the fields is required."""

    reason: Name | None = Field(None, description="Tasks that failed with this error code.")
    since: Instant | None = Field(None, description="Tasks that failed at or after this time.")


class RetryViews:
    """Retries of failed tasks, by id, reason or time."""

    def __init__(self, use_cases: UseCases, callers: Callers, rendering: Rendering) -> None:
        self._use_cases = use_cases
        self._callers = callers
        self._rendering = rendering

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "POST",
                "/v1/tasks/{task_id}/retry",
                "Run a failed task again.",
                self.retry,
                {202: ResponseDoc("The new task that replaces it. See Location.", Task)},
                description="The failed task is not changed. The new one is admitted like any submission. 409 for a "
                "task that would fail again for the same reason (such as an invalid request) or was retried before.",
                refusals=(404, 409),
            ),
            Operation(
                "POST",
                "/v1/tasks/retry",
                "Run failed tasks again, by reason or time.",
                self.retry_some,
                {202: ResponseDoc("The outcome.", RetriedTasks)},
                description="The oldest 1,000 that can be retried, except tasks of batches, which are retried through "
                "their batch. Stops at a limit or budget. Repeat while `has_more` is true.",
                body=RetryBody,
                refusals=(413,),
            ),
        ]

    def retry(self, task_id: str) -> ResponseReturnValue:
        """202 with the new task."""
        client_id = self._callers.current().client_id
        new = self._use_cases.retry_task.retry(client_id, task_id)
        note(subject=new)
        row = self._use_cases.read_tasks.task(client_id, new)
        return answer(self._rendering.task(row), 202, {"Location": f"/v1/tasks/{new}"})

    def retry_some(self) -> ResponseReturnValue:
        """The number of retried tasks, and why it stopped."""
        client_id = self._callers.current().client_id
        body = read_model(RetryBody)
        if body.reason is None and body.since is None:
            raise Invalid("give `reason`, `since` or both", param="reason", code="missing")
        done = self._use_cases.retry_tasks.retry(client_id, reason=body.reason, since=body.since)
        refusal = done.refusal
        shown = RetriedTasks(
            object="retried_tasks",
            retried=len(done.task_ids),
            task_ids=list(done.task_ids),
            has_more=done.has_more,
            refused=None if refusal is None else Refused(code=refusal.code, message=refusal.message),
        )
        return answer(shown, 202)
