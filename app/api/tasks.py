"""/v1/tasks: one prompt at a time."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue

from app.api.access_control import Callers, Repeats
from app.api.auditing import note
from app.api.body import ONE_TASK, read_body
from app.api.operations import Operation, ResponseDoc
from app.api.peer import watch_peer
from app.api.queries import TasksQuery, WaitQuery, read_query
from app.api.rendering import Rendering
from app.api.responses import answer
from app.api.shapes import AttemptList, Deleted, DeliveryList, Task, TaskList
from app.api.use_cases import UseCases
from app.submission.bodies import TaskBody
from app.submission.validation import parse, parse_json

_SOON = "2"  # seconds after which asking again may pay


class TaskViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, house: UseCases, callers: Callers, rendering: Rendering, most: int) -> None:
        """`most` bytes of one body."""
        self._house = house
        self._callers = callers
        self._rendering = rendering
        self._most = most

    def operations(self) -> list[Operation]:
        """What is offered."""
        one = {200: ResponseDoc("The task.", Task)}
        return [
            Operation(
                "POST",
                "/v1/tasks",
                "Submit one prompt.",
                self.submit,
                {202: ResponseDoc("Stored; it will run. See Location and Retry-After.", Task)},
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
                "Look at a task, or wait for its end.",
                self.show,
                one,
                description="With `wait` it answers as soon as the task has ended. When very many wait already, it "
                "answers at once with the task as it stands.",
                query=WaitQuery,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/tasks/{task_id}/cancel",
                "Cancel a task.",
                self.cancel,
                one,
                description="A waiting task is cancelled at once. A running call is let finish: should it succeed, "
                "its result is kept; anything else ends `cancelled`.",
                refusals=(404, 409),
            ),
            Operation(
                "DELETE",
                "/v1/tasks/{task_id}",
                "Delete a task, its prompt and its result.",
                self.delete,
                {200: ResponseDoc("Nobody sees it any more; its rows follow in the background.", Deleted)},
                description="A waiting task is cancelled. A running call is let finish; its result is kept nowhere.",
                refusals=(404,),
            ),
            Operation(
                "GET",
                "/v1/tasks/{task_id}/attempts",
                "The upstream calls made for a task.",
                self.attempts,
                {200: ResponseDoc("All of them, in order.", AttemptList)},
                refusals=(404,),
            ),
            Operation(
                "GET",
                "/v1/tasks/{task_id}/deliveries",
                "The tries at telling its callback.",
                self.deliveries,
                {200: ResponseDoc("All of them, in order.", DeliveryList)},
                refusals=(404,),
            ),
        ]

    def submit(self) -> ResponseReturnValue:
        """202 only after the commit."""
        caller = self._callers.current()
        repeats = Repeats("POST /v1/tasks")
        body = parse(TaskBody, parse_json(repeats.add(read_body(self._most, ONE_TASK))))
        note(body.model, parameters=body.parameters)
        submitted = self._house.submit_task.submit(caller.client_id, body.request(), repeats.repeat())
        note(subject=submitted.task_id)
        headers = {"Location": f"/v1/tasks/{submitted.task_id}", "Retry-After": _SOON}
        if submitted.row is None:
            headers["Idempotent-Replayed"] = "true"
            row = self._house.read_tasks.task(caller.client_id, submitted.task_id)
            return answer(self._rendering.task(row), 202, headers)
        if submitted.answered:
            row = self._house.read_tasks.task(caller.client_id, submitted.task_id)
            return answer(self._rendering.task(row), 202, {"Location": headers["Location"]})
        return answer(self._rendering.new_task(submitted.row), 202, headers)

    def list(self) -> ResponseReturnValue:
        """A page, newest first."""
        caller = self._callers.current()
        query = read_query(TasksQuery)
        page = self._house.read_tasks.page(
            caller.client_id,
            status=query.status,
            reason=query.reason,
            batch_id=query.batch_id,
            after=query.after,
            limit=query.limit,
        )
        return answer(self._rendering.tasks(page))

    def show(self, task_id: str) -> ResponseReturnValue:
        """The task, at once or at its end."""
        caller = self._callers.current()
        query = read_query(WaitQuery)
        if query.wait > 0:
            gone = watch_peer(request.environ)
            row = self._house.wait_for_task.wait(caller.client_id, task_id, query.wait, gone)
        else:
            row = self._house.read_tasks.task(caller.client_id, task_id)
        headers = {} if row.status.ended else {"Retry-After": _SOON}
        return answer(self._rendering.task(row), 200, headers)

    def cancel(self, task_id: str) -> ResponseReturnValue:
        """The task as it stands after the wish."""
        caller = self._callers.current()
        self._house.cancel_task.cancel(caller.client_id, task_id)
        return answer(self._rendering.task(self._house.read_tasks.task(caller.client_id, task_id)))

    def delete(self, task_id: str) -> ResponseReturnValue:
        """Gone, as far as anybody can see."""
        caller = self._callers.current()
        self._house.delete_task.delete(caller.client_id, task_id)
        return answer({"id": task_id, "object": "task.deleted", "deleted": True})

    def attempts(self, task_id: str) -> ResponseReturnValue:
        """The upstream calls."""
        caller = self._callers.current()
        return answer(self._rendering.attempts(self._house.read_tasks.attempts(caller.client_id, task_id)))

    def deliveries(self, task_id: str) -> ResponseReturnValue:
        """The tries at its callback."""
        caller = self._callers.current()
        return answer(
            self._rendering.deliveries(self._house.read_tasks.deliveries(caller.client_id, task_id))
        )
