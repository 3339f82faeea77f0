"""Feed the backlog queues from the database: the only way in for tasks that could not be queued at submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.dispatching import store
from app.pacing.store.pacing_store import RedisPacingStore
from app.platform.database import Database
from app.platform.ports import Clock
from app.tasks.domain.attempt import Message
from app.tasks.ports import BacklogPublisher
from app.tasks.store import feeding

CHUNK = 1000  # rows of one queue a round, and about as many of one transaction: a few script calls
DUE_AT_ONCE = 2000
IDLE = 0.5  # seconds between looks at the database unless woken


@dataclass(frozen=True, slots=True)
class _Part:
    """What one queue may get in a round. `ordered`: messages ordered by deadline, by step; None if it has none."""

    queue: str
    most: int
    ordered: Mapping[int, int] | None


class Feeder:
    """Moves rows that may run now into their queues, as far as these have room."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        window: RedisPacingStore,
        clock: Clock,
        *,
        size: int = 50_000,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._window = window
        self._clock = clock
        self._size = size

    def tick(self) -> float:
        """Do one bounded round. Returns seconds until the next is due unless woken; 0 when there is more.

        1. What has become due may be fed. 2. Feed each queue that has rows and room, several in one transaction.
        3. Where nothing waits in the database any more, others may publish directly again.
        """
        now = self._clock.now()
        self._database.write(lambda c: feeding.promote_due(c, now, DUE_AT_ONCE))
        overflows = self._window.overflows()
        queues = self._database.read(feeding.queues_to_feed)
        more, parts = False, self._parts(queues)
        while parts:
            taken = self._take(parts)
            more |= self._publish(parts[: len(taken)], taken)
            parts = parts[len(taken) :]
        for queue in overflows.keys() - set(queues):
            self._window.clear_overflow(queue, overflows[queue])
        if more:
            return 0.0
        due = self._database.read(feeding.next_due)
        return IDLE if due is None else min(IDLE, max(0.0, due - self._clock.now()))

    def _parts(self, queues: Sequence[str]) -> list[_Part]:
        """What each queue may get now; those without room are left out."""
        rooms = self._window.rooms(queues, self._size, CHUNK) if queues else {}
        roomy = [queue for queue in queues if rooms[queue] > 0]
        if not roomy:
            return []
        ordered = self._database.read(lambda c: {q for q in roomy if feeding.any_by_deadline(c, q)})
        return [
            _Part(queue, rooms[queue], self._window.ordered_room(queue) if queue in ordered else None)
            for queue in roomy
        ]

    def _take(self, parts: Sequence[_Part]) -> list[list[Message]]:
        """Take the rows of the first queues, up to a transaction's worth. Returns those of each queue."""
        at = self._clock.now()

        def take(connection: Connection) -> list[list[Message]]:
            taken: list[list[Message]] = []
            for part in parts:
                taken.append(feeding.next_to_feed(connection, part.queue, part.most, part.ordered))
                if sum(map(len, taken)) >= CHUNK:
                    break
            feeding.mark_fed(connection, [m.task_id for messages in taken for m in messages], at)
            return taken

        return self._database.write(take)

    def _publish(self, parts: Sequence[_Part], taken: Sequence[Sequence[Message]]) -> bool:
        """Publish what was taken. Returns whether some queue has more."""
        messages = [message for of_queue in taken for message in of_queue]
        # Plain retries go to the front, so the last of them is put there first.
        front = [m for m in messages if m.front]
        refused = self._publisher.publish(front[::-1] + [m for m in messages if not m.front], feeding=True)
        if refused:
            self._database.write(lambda c: feeding.mark_unqueued(c, list(refused)))
        self._forget_gone([m.task_id for m in messages if m.task_id not in refused])
        full = {m.queue for m in messages if m.task_id in refused}
        return any(
            len(of_queue) == part.most and part.queue not in full
            for part, of_queue in zip(parts, taken, strict=True)
        )

    def _forget_gone(self, task_ids: list[str]) -> None:
        """Delete places of tasks that were cancelled while being published: nothing else would."""
        found = self._database.read(lambda c: store.releases_of(c, task_ids)) if task_ids else {}
        gone = [i for i in task_ids if i not in found or found[i][0].ended]
        if gone:
            self._publisher.forget(gone)
