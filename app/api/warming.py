"""/v1/cache/warm: fill the cache with likely prompts."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from flask.typing import ResponseReturnValue
from pydantic import Field, model_validator

from app.api.access_control import Callers
from app.api.body import read_model
from app.api.operations import Operation, ResponseDoc
from app.api.responses import answer
from app.api.shapes import Shape
from app.billing.domain.calendar import Calendar
from app.platform.domain.money import PICOS_PER_UNIT, amount
from app.platform.ports import Clock
from app.submission.bodies import Body, Instant, TaskBody, refuse
from app.submission.warm_cache import WarmCache

_MOST = 1_000


class WarmBody(Body):
    """Exactly one of `requests` and `top`."""

    requests: Annotated[list[TaskBody], Field(fail_fast=True, min_length=1, max_length=_MOST)] | None = Field(
        None, description="Requests to cache, most likely first."
    )
    top: int | None = Field(
        None, ge=1, le=_MOST, description="Number of your most frequent prompts of the last week to cache."
    )
    budget: str = Field(
        pattern=r"^\d{1,6}(\.\d{1,12})?$",
        description="Maximum cost, in the currency of the models' prices, such as 0.50.",
    )
    run_at: Instant | None = Field(None, description="Earliest start.")
    off_peak: bool = Field(False, description="Avoid the upstream's peak hours.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.requests is None) == (self.top is None):
            refuse("give exactly one of `requests` and `top`", field="requests", code="missing_field")
        return self


class Warming(Shape):
    """What was submitted."""

    object: str
    task_ids: list[str]
    left_out: int = Field(description="Number of requests that did not fit into the budget.")
    ceiling: str = Field(description="Maximum cost, exact.")
    currency: str | None


class WarmViews:
    """The /v1/cache/warm operation."""

    def __init__(
        self, warm: WarmCache, callers: Callers, peaks: Calendar | None, clock: Clock, most: int
    ) -> None:
        """`peaks`: the hours that `off_peak` avoids; `most`: bytes of one body."""
        self._warm = warm
        self._callers = callers
        self._peaks = peaks
        self._clock = clock
        self._most = most

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "POST",
                "/v1/cache/warm",
                "Fill the cache with likely prompts.",
                self.submit,
                {202: ResponseDoc("Submitted at low priority, within the budget.", Warming)},
                group="Usage",
                body=WarmBody,
                refusals=(402, 403, 413),
            )
        ]

    def submit(self) -> ResponseReturnValue:
        """202 with what was submitted."""
        caller = self._callers.current()
        body = read_model(WarmBody, self._most)
        requests = (
            [item.request() for item in body.requests]
            if body.requests is not None
            else self._warm.most_asked(caller.client_id, body.top or 1)
        )
        budget = int(Decimal(body.budget) * PICOS_PER_UNIT)
        warmed = self._warm.warm(caller.client_id, requests, self._run_at(body), budget)
        return answer(
            {
                "object": "cache.warming",
                "task_ids": list(warmed.task_ids),
                "left_out": warmed.left_out,
                "ceiling": amount(warmed.picos),
                "currency": warmed.currency,
            },
            202,
        )

    def _run_at(self, body: WarmBody) -> float | None:
        if not body.off_peak or self._peaks is None:
            return body.run_at
        now = self._clock.now()
        begins = self._peaks.off_peak_from(max(now, body.run_at or now))
        return begins if begins > now else body.run_at
