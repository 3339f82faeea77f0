"""Events for Flower, sent together: each publish costs a worker as much as three tasks' events do.

Celery's buffer is flushed whenever its loop turns, which is nearly once an event. Here it is flushed when it is full,
or a moment after its first event. Every event still wakes the loop: a saturated worker takes its next message then.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from vine import promise

GATHER_SECONDS = 0.25  # people look at them
_MOST = 500  # events in one message


class _Flushing:
    """Turns "soon" into at most one flush in GATHER_SECONDS. Its methods but `soon` run in the loop's thread."""

    def __init__(self, consumer: Any) -> None:
        self._hub = consumer.hub
        self._events = consumer.event_dispatcher
        self._flushed_at = 0.0
        self._is_planned = False
        self._look = promise(self._plan)

    def soon(self) -> None:
        """An event was buffered. May be called by any thread."""
        self._hub.call_soon(self._look)

    def _plan(self) -> None:
        if self._is_planned:
            return
        left = self._flushed_at + GATHER_SECONDS - monotonic()
        if left <= 0:
            self._flush()
        else:
            self._is_planned = True
            self._hub.call_later(left, self._flush)

    def _flush(self) -> None:
        self._is_planned = False
        self._flushed_at = monotonic()
        self._events.flush()


class GatherEvents(bootsteps.StartStopStep):
    """Runs with each connection, after the step that makes the dispatcher of events."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        """Take the flushing over."""
        if events := _buffering(consumer):
            events.buffer_limit = _MOST
            events.on_send_buffered = _Flushing(consumer).soon

    def stop(self, consumer: Any) -> None:
        """Send what waits: the loop that would have sent it has ended. Without a connection Celery keeps it."""
        if events := _buffering(consumer):
            events.flush()


def _buffering(consumer: Any) -> Any:
    """The consumer's dispatcher of events, if it gathers them at all."""
    events = consumer.event_dispatcher
    return events if consumer.hub is not None and events is not None and events.enabled else None


# Celery waits 2 s longer before each try, up to 32 s: after an outage of a minute the work would stand still for as
# long as 14 s more. A try is one connection; a worker has nothing else to do meanwhile.
START_SECONDS = 0.5
STEP_SECONDS = 0.5
MOST_SECONDS = 2.0


class PromptConsumer(Consumer):
    """Celery's consumer, back within two seconds of Redis itself."""

    def ensure_connected(self, conn: Any) -> Any:
        """`conn`, connected; tries until it is, or until the worker is told to end."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=START_SECONDS,
            interval_step=STEP_SECONDS,
            interval_max=MOST_SECONDS,
        )
        return super().ensure_connected(conn)
