"""?dry_run=true: what a batch would come to."""

from __future__ import annotations

from typing import Any, Literal

from flask import request
from pydantic import Field

from app.api.queries import Query, read_query
from app.api.shapes import Cost, Shape, Time
from app.platform.domain.errors import Invalid
from app.platform.domain.money import micros
from app.platform.domain.times import to_rfc3339
from app.submission.bodies import BatchOptions
from app.submission.estimate_batch import Estimate
from app.submission.validation import parse


class DryRunQuery(Query):
    """Whether to submit at all."""

    dry_run: Literal["true", "false"] = Field(
        "false", description="true: check everything, say what it would come to, and store nothing."
    )


class ModelEstimate(Shape):
    """What goes to one model."""

    requests: int
    tokens: int


class BatchEstimate(Shape):
    """What a batch would come to."""

    object: Literal["batch.estimate"]
    requests: int
    tokens: int = Field(description="Estimated, prompts and answers together.")
    cost: Cost | None = Field(description="The most it can cost; null: a price is unknown.")
    seconds: float | None = Field(
        description="At the told limits, if nothing else runs; null: none are told."
    )
    finished_at: Time | None
    models: dict[str, ModelEstimate]


def read_dry_run() -> bool:
    """Whether the request that is being served is only a question. Raises Invalid."""
    given = request.args.get("dry_run")
    return given is not None and parse(DryRunQuery, {"dry_run": given}).dry_run == "true"


def refuse_options_in_query() -> None:
    """With a JSON body nothing else stands in the query string: an option there would be overlooked. Raises Invalid."""
    for name in request.args:
        if name in BatchOptions.model_fields:
            raise Invalid(
                f"{name}: stands in the body when that is JSON; in the query string it is for JSON lines "
                "(Content-Type: application/x-ndjson)",
                param=name,
                code="invalid_value",
            )
    read_query(DryRunQuery)


def estimate_view(estimate: Estimate) -> dict[str, Any]:
    """The answer."""
    cost = None
    if estimate.cost_picos is not None:
        cost = {"micros": micros(estimate.cost_picos), "currency": estimate.currency}
    return {
        "object": "batch.estimate",
        "requests": estimate.requests,
        "tokens": estimate.tokens,
        "cost": cost,
        "seconds": estimate.seconds,
        "finished_at": to_rfc3339(estimate.finished_at),
        "models": {
            name: {"requests": demand.requests, "tokens": demand.tokens}
            for name, demand in estimate.models.items()
        },
    }
