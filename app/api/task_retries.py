"""/v1/tasks/{id}/retry and /v1/tasks/retry: failed tasks, run again by hand."""

from __future__ import annotations

from flask.typing import ResponseReturnValue
from pydantic import Field

from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import read_body
from app.api.operations import Operation, ResponseDoc
from app.api.rendering import Rendering
from app.api.responses import answer
from app.api.shapes import RetriedTasks, Task
from app.api.use_cases import UseCases
from app.platform.domain.errors import Invalid
from app.submission.bodies import Body, Instant, Name
from app.submission.validation import parse, parse_json

_MOST = 64 * 1024  # bytes of a body


class RetryBody(Body):
    """Which tasks to run again; one of the two at least."""

    reason: Name | None = Field(None, description="Those that failed with this error code.")
    since: Instant | None = Field(None, description="Those that failed since.")


class RetryViews:
    """One by its id, or all of a reason or since an instant."""

    def __init__(self, house: UseCases, callers: Callers, rendering: Rendering) -> None:
        self._house = house
        self._callers = callers
        self._rendering = rendering

    def operations(self) -> list[Operation]:
        """What is offered."""
        return [
            Operation(
                "POST",
                "/v1/tasks/{task_id}/retry",
                "Run a failed task again.",
                self.retry,
                {202: ResponseDoc("The new task that takes its place. See Location.", Task)},
                description="The failed one stays as it ended. Admitted as any submission is. One that would fail "
                "again for the same reason (a refused request, say), or was run again before, is 409.",
                refusals=(404, 409),
            ),
            Operation(
                "POST",
                "/v1/tasks/retry",
                "Run failed tasks again, by reason or since an instant.",
                self.retry_some,
                {202: ResponseDoc("What came of it.", RetriedTasks)},
                description="The oldest 1,000 that may be run again, lines of batches aside: those have their "
                "batch's retry. Stops where a limit or budget refuses. Ask again while `has_more`.",
                body=RetryBody,
                refusals=(413,),
            ),
        ]

    def retry(self, task_id: str) -> ResponseReturnValue:
        """202 with the new task."""
        client_id = self._callers.current().client_id
        new = self._house.retry_task.retry(client_id, task_id)
        note(subject=new)
        row = self._house.read_tasks.task(client_id, new)
        return answer(self._rendering.task(row), 202, {"Location": f"/v1/tasks/{new}"})

    def retry_some(self) -> ResponseReturnValue:
        """How many, and why no more."""
        client_id = self._callers.current().client_id
        body = parse(RetryBody, parse_json(read_body(_MOST)))
        if body.reason is None and body.since is None:
            raise Invalid("give a reason, a since, or both", param="reason", code="missing")
        done = self._house.retry_tasks.retry(client_id, reason=body.reason, since=body.since)
        refusal = done.refusal
        shown = {
            "object": "retried_tasks",
            "retried": len(done.task_ids),
            "task_ids": done.task_ids,
            "has_more": done.has_more,
            "refused": None if refusal is None else {"code": refusal.code, "message": refusal.message},
        }
        return answer(shown, 202)
