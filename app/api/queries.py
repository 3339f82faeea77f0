"""Query strings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from flask import request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.platform.domain.errors import Invalid
from app.platform.domain.times import parse_duration
from app.submission.bodies import BatchOptions, few_names, option_headers, refuse
from app.submission.validation import parse

Q = TypeVar("Q", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)


def _seconds(value: object) -> float:
    if not isinstance(value, int | float | str):
        refuse("must be a number of seconds")
    return parse_duration(value)


Seconds = Annotated[float, BeforeValidator(_seconds), WithJsonSchema({"type": "number", "minimum": 0})]


class Query(BaseModel):
    """A query string: values arrive as text, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, value: Any) -> Any:
        return few_names(value)


class WaitQuery(Query):
    """How to wait for a task."""

    wait: Seconds = Field(
        0.0, description="Seconds to wait for the task to end before answering; at most 60."
    )


class TasksQuery(Query):
    """Which tasks to list."""

    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] | None = Field(
        None, description="Only tasks with this status."
    )
    reason: str | None = Field(None, description="Only tasks that ended with this error code.")
    batch_id: str | None = Field(None, description="Only tasks of this batch.")
    after: str | None = Field(None, description="The last id of the previous page.")
    limit: int = Field(20, ge=1, le=100, description="Page size, at most 100.")


def read_query(model: type[Q]) -> Q:
    """Check the query string. Raises Invalid that names the parameter."""
    return parse(model, _single_values())


def read_batch_options() -> BatchOptions:
    """The options of a JSON Lines batch, from the query string. `metadata` is only accepted in JSON bodies."""
    values: dict[str, object] = {**option_headers(request.headers.items()), **_single_values()}
    values.pop("dry_run", None)
    size = values.get("batch_size")
    if isinstance(size, str) and size.isascii() and size.isdigit():
        values["batch_size"] = int(size[:9])
    return parse(BatchOptions, values)


def header_options(model: type[B]) -> B:
    """Options of the request that came in headers, such as `x-penstock-priority`. Raises Invalid."""
    return parse(model, option_headers(request.headers.items()), within="penstock")


def _single_values() -> dict[str, str]:
    values: dict[str, str] = {}
    for name, given in request.args.lists():
        if len(given) > 1:
            raise Invalid(f"{name}: is given {len(given)} times", param=name, code="invalid_value")
        values[name] = given[0]
    return values
