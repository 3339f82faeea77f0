"""Response models of lists and of what is no task or batch; the models of those are in app/tasks/views.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.tasks.views import Batch, Cost, Finish, Problem, Shape, Task, TaskProblem, TaskStatus, Time, Usage


class ErrorEnvelope(Shape):
    """The body of every error response."""

    error: Problem


class Deleted(Shape):
    """A deleted object."""

    id: str
    object: Literal["task.deleted"]
    deleted: bool


class Refused(Shape):
    """Why no more tasks were admitted."""

    code: str | None
    message: str


class RetriedTasks(Shape):
    """The outcome of a retry of failed tasks."""

    object: Literal["retried_tasks"]
    retried: Annotated[int, Field(description="Number of new tasks.")]
    task_ids: Annotated[
        list[str], Field(description="Ids of the new tasks, in the order of the tasks they replace.")
    ]
    has_more: Annotated[bool, Field(description="Whether more matching tasks remain.")]
    refused: Annotated[Refused | None, Field(description="Why it stopped early.")]


class TaskList(Shape):
    """A page of tasks, newest first, without results."""

    object: Literal["list"]
    data: list[Task]
    has_more: bool
    first_id: str | None
    last_id: Annotated[str | None, Field(description="Pass this as `after` for the next page.")]


class Attempt(Shape):
    """One upstream call for a task."""

    object: Literal["attempt"]
    number: Annotated[int, Field(description="From 1.")]
    outcome: str
    counted: Annotated[bool, Field(description="Whether it counts as one of the retry policy's attempts.")]
    key: str
    upstream_model: str
    status_code: int | None
    error_message: str | None
    upstream_request_id: str | None
    started_at: Time
    first_byte_at: Time | None
    finished_at: Time
    usage: Usage | None
    cost: Cost | None


class AttemptList(Shape):
    """All upstream calls for a task, in order."""

    object: Literal["list"]
    data: list[Attempt]


class Delivery(Shape):
    """One delivery attempt of a callback."""

    object: Literal["delivery"]
    callback_id: Annotated[str, Field(description="Also the `webhook-id` of the request.")]
    type: str
    url: str
    number: Annotated[int, Field(description="From 1.")]
    started_at: Time
    finished_at: Time
    status_code: int | None
    error: str | None


class DeliveryList(Shape):
    """All delivery attempts of a task's callbacks, in order."""

    object: Literal["list"]
    data: list[Delivery]


class AcceptedBatch(Batch):
    """A batch that has been accepted completely."""

    task_ids: Annotated[
        list[str], Field(description="The first 1,000 task ids, in the order of the requests.")
    ]


class ResultLine(Shape):
    """One ended task of a batch."""

    index: Annotated[int, Field(description="Index of the request, from 0.")]
    custom_id: str | None
    task_id: str
    status: TaskStatus
    result: dict[str, Any] | None
    error: TaskProblem | None
    finish: Finish
    usage: Usage | None
    cost: Cost | None


class Health(Shape):
    """The health of a process."""

    status: Literal["ok"]
