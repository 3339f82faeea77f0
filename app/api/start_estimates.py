"""/v1/estimates: how good the estimated starts were."""

from __future__ import annotations

from typing import Literal

from flask.typing import ResponseReturnValue
from pydantic import Field

from app.api.access_control import Callers
from app.api.operations import Operation, ResponseDoc
from app.api.responses import answer
from app.api.shapes import Shape
from app.pacing.domain.estimates import quality
from app.pacing.store.lines import foretold
from app.platform.database import Database

OVER = 1_000  # tasks: the newest that succeeded


class EstimateQuality(Shape):
    """The starts estimated at submission, against the real ones, of your newest tasks that succeeded."""

    object: Literal["estimates"]
    tasks: int = Field(description=f"How many were looked at; the newest {OVER} at most.")
    unestimated: int = Field(description="Of these, those whose start nobody could estimate when they came.")
    median_error_seconds: float | None
    median_error_share: float | None = Field(
        description="Of the real wait; waits under a second count as one."
    )
    within_twice: float | None = Field(
        description="The share of estimates of half to twice the real wait; waits under a second count as one."
    )


class ForetoldViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, database: Database, callers: Callers) -> None:
        self._database = database
        self._callers = callers

    def operations(self) -> list[Operation]:
        """What is offered."""
        return [
            Operation(
                "GET",
                "/v1/estimates",
                "How good estimated starts were.",
                self.read,
                {200: ResponseDoc("Estimates against what came.", EstimateQuality)},
                group="Usage",
            )
        ]

    def read(self) -> ResponseReturnValue:
        """The quality of the caller's estimates."""
        caller = self._callers.current()
        found = quality(self._database.read(lambda conn: foretold(conn, caller.client_id, OVER)))
        return answer(
            {
                "object": "estimates",
                "tasks": found.tasks,
                "unestimated": found.unestimated,
                "median_error_seconds": found.median_error_seconds,
                "median_error_share": found.median_error_share,
                "within_twice": found.within_twice,
            }
        )
