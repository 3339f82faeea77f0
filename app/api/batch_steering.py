"""/v1/batch/{id}/pause, /resume and /retry."""

from __future__ import annotations

from collections.abc import Callable

from flask.typing import ResponseReturnValue

from app.api.access_control import Callers
from app.api.operations import Operation, ResponseDoc, View
from app.api.rendering import Rendering
from app.api.responses import answer
from app.api.shapes import Batch
from app.api.use_cases import OpenAiHouse
from app.tasks.store.batches import BatchRow


class SteeringViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, house: OpenAiHouse, callers: Callers, rendering: Rendering) -> None:
        self._house = house
        self._callers = callers
        self._rendering = rendering

    def operations(self) -> list[Operation]:
        """What is offered, each also under /api."""
        return [
            _operation(
                "pause", "Start nothing more of a batch.", self.pause, "Running calls are let finish."
            ),
            _operation("resume", "Let a paused batch go on.", self.resume, "In the order of its requests."),
            _operation(
                "retry",
                "Run the failed lines of a batch again.",
                self.retry,
                "Those that failed or expired, and those alone. Each becomes a new task; the old one stays as it "
                "ended. A batch whose time was up gets as much again.",
            ),
        ]

    def pause(self, batch_id: str) -> ResponseReturnValue:
        """The batch as it stands after the wish."""
        return self._do(self._house.steer_batch.pause, batch_id)

    def resume(self, batch_id: str) -> ResponseReturnValue:
        """The batch as it stands after the wish."""
        return self._do(self._house.steer_batch.resume, batch_id)

    def retry(self, batch_id: str) -> ResponseReturnValue:
        """The batch as it stands after the wish."""
        return self._do(self._house.steer_batch.retry, batch_id)

    def _do(self, what: Callable[[str, str], BatchRow], batch_id: str) -> ResponseReturnValue:
        return answer(self._rendering.batch(what(self._callers.current().client_id, batch_id)))


def _operation(word: str, summary: str, view: View, description: str) -> Operation:
    path = f"/v1/batch/{{batch_id}}/{word}"
    return Operation(
        "POST",
        path,
        summary,
        view,
        {200: ResponseDoc("The batch.", Batch)},
        group="Batches",
        description=description,
        refusals=(404, 409),
        aliases=(f"/api{path}",),
    )
