"""/events: the progress of a task or batch as server-sent events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import orjson
from flask import Response, request
from flask.typing import ResponseReturnValue

from app.api.access_control import Callers
from app.api.body import watch_peer
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import Rendering
from app.composition.api import OpenAiUseCases
from app.platform.domain.event_stream import COMMENT, named_event
from app.platform.domain.money import micros
from app.tasks.domain.rows import BatchRow

SSE = "text/event-stream"
_ABOUT = (
    "Sends an event named `{0}` with the current {0} whenever it changes; the last one reports its end. An event named "
    "`end` with the same data follows. A browser's EventSource that connects again after it gets 204 and stops."
)
_END = "end"
_AGAIN = b"retry: 3000\n"  # milliseconds before an EventSource connects again


class EventViews:
    """The /events operations."""

    def __init__(self, use_cases: OpenAiUseCases, callers: Callers, rendering: Rendering) -> None:
        self._use_cases = use_cases
        self._callers = callers
        self._rendering = rendering

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "GET",
                "/v1/tasks/{task_id}/events",
                "Follow a task.",
                self.task,
                {200: ResponseDoc("Server-sent events.", media=SSE)},
                description=_ABOUT.format("task"),
                refusals=(404,),
            ),
            Operation(
                "GET",
                "/v1/batch/{batch_id}/events",
                "Follow a batch.",
                self.batch,
                {200: ResponseDoc("Server-sent events.", media=SSE)},
                group="Batches",
                description=_ABOUT.format("batch") + " Includes `usage` and `cost` so far.",
                refusals=(404,),
                aliases=("/api/v1/batch/{batch_id}/events",),
            ),
        ]

    def task(self, task_id: str) -> ResponseReturnValue:
        """Events of a task."""
        client_id, read = self._callers.current().client_id, self._use_cases.read_tasks.task
        if _has_seen_the_end():
            return Response(status=204)
        states = self._use_cases.follow.states(
            task_id,
            lambda: read(client_id, task_id),
            lambda row: row.status.ended,
            watch_peer(request.environ),
        )
        return _stream("task", states, self._rendering.task, lambda row: row.status.ended)

    def batch(self, batch_id: str) -> ResponseReturnValue:
        """Events of a batch."""
        client_id, read = self._callers.current().client_id, self._use_cases.read_batches.batch
        if _has_seen_the_end():
            return Response(status=204)
        states = self._use_cases.follow.states(
            batch_id,
            lambda: read(client_id, batch_id),
            lambda row: row.status.ended,
            watch_peer(request.environ),
        )
        return _stream("batch", states, self._progress, lambda row: row.status.ended)

    def _progress(self, row: BatchRow) -> dict[str, Any]:
        used = self._use_cases.read_batch_usage.so_far(row)
        cost = None
        if used["cost_picos"] is not None:
            cost = {"micros": micros(used["cost_picos"]), "currency": used["currency"]}
        tokens = {name: used[name] for name in ("prompt_tokens", "completion_tokens")}
        return {**vars(self._rendering.batch(row)), "usage": tokens, "cost": cost}


def _has_seen_the_end() -> bool:
    return request.headers.get("Last-Event-ID") == _END


def _stream(
    name: str,
    states: Iterator[Any],
    render: Callable[[Any], Any],
    ended: Callable[[Any], bool],
) -> Response:
    """Read the first state before sending headers, so that a missing object is answered by 404."""
    first = next(states)

    def events() -> Iterator[bytes]:
        yield _AGAIN
        for state in chain([first], states):
            if state is None:
                yield COMMENT
                continue
            data = orjson.dumps(render(state))
            yield named_event(name, data)
            if ended(state):
                yield named_event(_END, data, _END)

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response(events(), content_type=f"{SSE}; charset=utf-8", headers=headers)
