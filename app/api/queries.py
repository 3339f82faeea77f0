"""What may stand behind the question mark of a URL."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from flask import request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from app.platform.domain.errors import Invalid
from app.platform.domain.times import parse_duration
from app.submission.bodies import BatchOptions, few_names, refuse
from app.submission.validation import parse

Q = TypeVar("Q", bound=BaseModel)


def _seconds(value: object) -> float:
    if not isinstance(value, int | float | str):
        refuse("must be a number of seconds")
    return parse_duration(value)


Seconds = Annotated[float, BeforeValidator(_seconds), WithJsonSchema({"type": "number", "minimum": 0})]


class Query(BaseModel):
    """Nothing unknown; everything comes as text."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, value: Any) -> Any:
        return few_names(value)


class WaitQuery(Query):
    """How to wait for a task."""

    wait: Seconds = Field(
        0.0, description="Answer when the task has ended, or after this many seconds; at most 60."
    )


class TasksQuery(Query):
    """Which tasks to list."""

    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] | None = Field(
        None, description="Only these."
    )
    reason: str | None = Field(None, description="Only those that ended with this error code.")
    batch_id: str | None = Field(None, description="Only those of this batch.")
    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100, description="How many; 20 unless said otherwise, at most 100.")


def read_query(model: type[Q]) -> Q:
    """Check the query string. Raises Invalid that names the parameter."""
    return parse(model, _single_values())


def read_batch_options() -> BatchOptions:
    """The options of a batch of JSON lines, from the query string; `metadata` is for JSON bodies alone."""
    values: dict[str, object] = dict(_single_values())
    values.pop("dry_run", None)
    size = values.get("batch_size")
    if isinstance(size, str) and size.isascii() and size.isdigit():
        values["batch_size"] = int(size[:9])
    return parse(BatchOptions, values)


def _single_values() -> dict[str, str]:
    values: dict[str, str] = {}
    for name, given in request.args.lists():
        if len(given) > 1:
            raise Invalid(f"{name}: is given {len(given)} times", param=name, code="invalid_value")
        values[name] = given[0]
    return values
