"""Celery's consumer, where ours differs: it reconnects sooner, and sends its events for Flower in batches.

Each publish costs a worker as much as the events of three tasks. Celery flushes its buffer on every turn of its loop,
which is nearly once per event. Here it is flushed when it is full, or a moment after its first event. Every event still
wakes the loop: a saturated worker takes its next message then.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from vine import promise

GATHER_SECONDS = 0.25  # short for the people who watch
_MAX_EVENTS = 500  # in one message

# Celery waits 2 s longer before each try, up to 32 s: after an outage of a minute, work would stop for up to 14 s
# more. A try is one connection, and a worker has nothing else to do meanwhile.
START_SECONDS = 0.5
STEP_SECONDS = 0.5
MOST_SECONDS = 2.0


class PromptConsumer(Consumer):
    """Celery's consumer, back within two seconds of Redis."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return `conn`, connected; retry until it is, or until the worker has to stop."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=START_SECONDS,
            interval_step=STEP_SECONDS,
            interval_max=MOST_SECONDS,
        )
        return super().ensure_connected(conn)


class _Flusher:
    """At most one flush in GATHER_SECONDS. Owned by the loop's thread; only `soon` may be called from others."""

    def __init__(self, consumer: Any) -> None:
        self._hub = consumer.hub
        self._events = consumer.event_dispatcher
        self._flushed_at = 0.0
        self._is_planned = False
        self._plan_promise = promise(self._plan)

    def soon(self) -> None:
        """Called when an event was buffered."""
        self._hub.call_soon(self._plan_promise)

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
    """Runs with each connection, after the step that makes the event dispatcher."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        """Take over flushing."""
        if events := _buffering_dispatcher(consumer):
            events.buffer_limit = _MAX_EVENTS
            events.on_send_buffered = _Flusher(consumer).soon

    def stop(self, consumer: Any) -> None:
        """Send what is buffered, as the loop has ended. Without a connection Celery keeps it."""
        if events := _buffering_dispatcher(consumer):
            events.flush()


def _buffering_dispatcher(consumer: Any) -> Any:
    """The consumer's event dispatcher, if it buffers."""
    events = consumer.event_dispatcher
    return events if consumer.hub is not None and events is not None and events.enabled else None
