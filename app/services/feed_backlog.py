"""Feed backlog queues from the database: its only way in for whatever could not run when it was submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sqlalchemy import Connection

from app.db import feeding, healing
from app.db.database import Database
from app.domain.attempt import Message
from app.services.ports import Clock, Reservoir

CHUNK = 1000  # rows of one queue a tick: one transaction, a few script calls
DUE_AT_ONCE = 2000
IDLE = 0.5  # seconds between looks at the database when nobody rings


class Window(Protocol):
    """How full the backlog queues are."""

    def room(self, queue: str, window: int) -> int:
        """How many more messages a queue may hold."""

    def ordered_room(self, queue: str) -> Mapping[int, int]:
        """How many more that go by their deadline, by step."""

    def overflows(self) -> Mapping[str, str]:
        """Queues to which others may not publish, with how often they were refused."""

    def clear_overflow(self, queue: str, seen: str) -> None:
        """Let others publish again, unless somebody was refused since."""


class Feeder:
    """Moves rows that may run now into their queues, as far as the window reaches."""

    def __init__(
        self, database: Database, reservoir: Reservoir, window: Window, clock: Clock, *, size: int = 50_000
    ) -> None:
        self._database = database
        self._reservoir = reservoir
        self._window = window
        self._clock = clock
        self._size = size

    def tick(self) -> float:
        """Do one bounded round. Gives back seconds until the next is due without a ring; 0 when there is more.

        1. What has become due may be fed. 2. Feed each queue that has rows and room. 3. Where nothing waits in the
        database any more, others may publish directly again.
        """
        now = self._clock.now()
        self._database.write(lambda c: feeding.promote_due(c, now, DUE_AT_ONCE))
        overflows = self._window.overflows()
        queues = self._database.read(feeding.unfed_queues)
        more = [self._feed(queue) for queue in queues]
        for queue in overflows.keys() - set(queues):
            self._window.clear_overflow(queue, overflows[queue])
        if any(more):
            return 0.0
        due = self._database.read(feeding.next_due)
        return IDLE if due is None else min(IDLE, max(0.0, due - self._clock.now()))

    def _forget_gone(self, task_ids: list[str]) -> None:
        """What was cancelled while it was published has a place that nobody else would delete."""
        found = self._database.read(lambda c: healing.releases_of(c, task_ids)) if task_ids else {}
        gone = [i for i in task_ids if i not in found or found[i][0].ended]
        if gone:
            self._reservoir.forget(gone)

    def _feed(self, queue: str) -> bool:
        """Feed one queue. Gives back whether it had more than was taken."""
        limit = min(CHUNK, self._window.room(queue, self._size))
        if limit <= 0:
            return False
        ordered = self._database.read(lambda c: feeding.any_ordered(c, queue))
        rooms = self._window.ordered_room(queue) if ordered else None
        at = self._clock.now()

        def take(connection: Connection) -> list[Message]:
            messages = feeding.take_unfed(connection, queue, limit, rooms)
            feeding.mark_fed(connection, [m.task_id for m in messages], at)
            return messages

        messages = self._database.write(take)
        # Plain retries go to the front, so the last of them is put there first.
        front = [m for m in messages if m.front]
        refused = self._reservoir.publish(front[::-1] + [m for m in messages if not m.front], feeding=True)
        if refused:
            self._database.write(lambda c: feeding.unfeed(c, list(refused)))
        self._forget_gone([m.task_id for m in messages if m.task_id not in refused])
        return len(messages) == limit and not refused
