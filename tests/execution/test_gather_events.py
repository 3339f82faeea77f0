"""Events for Flower go together, and each still wakes the loop."""

from collections.abc import Callable
from typing import Any

from workers.consumer import GATHER_SECONDS, GatherEvents


class Hub:
    """Celery's loop: what is to run soon, and what later."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.later: list[tuple[float, Callable[[], object]]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.later.append((delay, callback))

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for callback in due:
            callback()


class Events:
    """Celery's dispatcher of events, as far as it matters here."""

    enabled = True
    buffer_limit = 24
    on_send_buffered: Callable[[], object]

    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


class Consumer:
    """Celery's consumer, likewise."""

    def __init__(self, hub: Hub | None) -> None:
        self.hub = hub
        self.event_dispatcher = Events()


def _started(consumer: Consumer) -> Any:
    GatherEvents(consumer).start(consumer)
    return consumer.event_dispatcher


def test_the_first_event_goes_at_once_and_those_right_after_it_go_together() -> None:
    hub = Hub()
    events = _started(Consumer(hub))
    for _ in range(10):
        events.on_send_buffered()
        hub.turn()
    assert events.flushes == 1
    assert len(hub.later) == 1
    delay, flush = hub.later.pop()
    assert 0 < delay <= GATHER_SECONDS
    flush()
    assert events.flushes == 2


def test_after_a_planned_flush_the_next_events_are_planned_again() -> None:
    hub = Hub()
    events = _started(Consumer(hub))
    events.on_send_buffered()
    hub.turn()
    for number in (2, 3):
        events.on_send_buffered()
        hub.turn()
        [(_, flush)] = hub.later
        hub.later.clear()
        flush()
        assert events.flushes == number


def test_every_event_wakes_the_loop() -> None:
    hub = Hub()
    events = _started(Consumer(hub))
    for _ in range(5):
        events.on_send_buffered()
    assert len(hub.soon) == 5


def test_what_waits_at_the_end_is_sent() -> None:
    consumer = Consumer(Hub())
    events = _started(consumer)
    events.on_send_buffered()
    GatherEvents(consumer).stop(consumer)
    assert events.flushes == 1


def test_without_a_loop_nothing_is_changed() -> None:
    events = _started(Consumer(None))
    assert events.buffer_limit == 24
    assert not hasattr(events, "on_send_buffered")
