"""Follow a task or a batch as it goes: its state whenever that has changed, until its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from app.platform.ports import Clock
from app.tasks.wait_for_task import Waiters

LOOK_EVERY = 1.0  # seconds: progress of a batch is no news that anybody publishes
ALIVE_EVERY = 10.0

T = TypeVar("T")


class FollowObject:
    """The use case of `/events`."""

    def __init__(self, waiters: Waiters, watch: Callable[[], None], clock: Clock) -> None:
        self._waiters = waiters
        self._watch = watch
        self._clock = clock

    def states(
        self, object_id: str, read: Callable[[], T], ended: Callable[[T], bool], gone: Callable[[], bool]
    ) -> Iterator[T | None]:
        """Each state that differs from the one before; None now and then, while nothing does.

        It ends with the object, with the client's connection or with this process. When very many wait already,
        after the first state. Raises what `read` raises.
        """
        self._watch()
        with self._waiters.enter(object_id) as bell:
            last = read()
            yield last
            told_at = self._clock.monotonic()
            while bell is not None and not ended(last) and not gone() and not self._waiters.closed:
                bell.wait(LOOK_EVERY)
                bell.clear()
                now = read()
                if now != last:
                    last, told_at = now, self._clock.monotonic()
                    yield last
                elif self._clock.monotonic() - told_at >= ALIVE_EVERY:
                    told_at = self._clock.monotonic()
                    yield None
