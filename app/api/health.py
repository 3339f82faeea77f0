"""What operators and their probes ask."""

from __future__ import annotations

from flask import Response
from flask.typing import ResponseReturnValue

from app.api.metrics import Metrics
from app.api.operations import TEXT, Operation, ResponseDoc
from app.api.responses import answer
from app.api.shapes import Health
from app.platform.database import Database


class HealthViews:
    """Probes and figures; none needs a key, none tells anything of a client."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    def operations(self) -> list[Operation]:
        """What is offered."""
        works = {200: ResponseDoc("It works.", Health)}
        return [
            Operation(
                "GET", "/healthz", "Does this process answer?", self.healthz, works, "Operations", public=True
            ),
            Operation(
                "GET",
                "/readyz",
                "Can this process serve? Fails only when the database is out of reach.",
                self.readyz,
                works,
                "Operations",
                refusals=(503,),
                public=True,
            ),
            Operation(
                "GET",
                "/metrics",
                "Figures of this process, for Prometheus.",
                self.metrics,
                {200: ResponseDoc("Prometheus' text format.", media=TEXT)},
                "Operations",
                public=True,
            ),
        ]

    def healthz(self) -> ResponseReturnValue:
        """It answers: that is all."""
        return answer({"status": "ok"})

    def readyz(self) -> ResponseReturnValue:
        """503 without the database; Redis may be away."""
        self._database.ping()
        return answer({"status": "ok"})

    def metrics(self) -> Response:
        """The exposition."""
        return self._metrics.page()
