"""The leader's look at tasks that use the cache: those of batches, those whose time has come, and abandoned ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from app.caching.domain.answer import AnswerCache, CachedAnswer
from app.caching.store import coalesce_join, orphaned_followers
from app.caching.store.coalesce_join import JoiningTask, Settled
from app.caching.tell_joined import tell_joined
from app.platform.database import Database
from app.platform.ports import Clock
from app.tasks.ports import BacklogPublisher

_ROWS = 1_000  # looked at in one tick
_LEADERS = 200  # seen to in one tick


class JoinIdentical:
    """A tick does one bounded round, before the feeder's."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
        answers: AnswerCache,
        clock: Clock,
        *,
        coalesce: bool,
        ring: Callable[[Sequence[str]], object] = lambda _callbacks: None,
    ) -> None:
        """`ring` tells who delivers callbacks."""
        self._database = database
        self._reservoir = reservoir
        self._answers = answers
        self._clock = clock
        self._coalesce = coalesce
        self._ring = ring

    def tick(self) -> bool:
        """Do one round; returns whether there may be more at once. Raises DatabaseUnreachable.

        1. See to the followers of leaders that bring no answer. 2. Answer, join or let run what waits for it.
        """
        left, waiting = self._database.read(
            lambda conn: (orphaned_followers.any_abandoned(conn), coalesce_join.waiting_to_join(conn, _ROWS))
        )
        changed = self._take_over() if left else False
        again = self._join(waiting) if waiting else False
        return changed or again or len(waiting) == _ROWS

    def _take_over(self) -> bool:
        now = self._clock.now()
        settled = self._database.write(lambda conn: orphaned_followers.settle_abandoned(conn, _LEADERS, now))
        self._tell(settled)
        return bool(settled.ended)

    def _join(self, waiting: Sequence[JoiningTask]) -> bool:
        answers, look = self._look(waiting), self._answers.look
        now = self._clock.now()
        settled = self._database.write(
            lambda conn: coalesce_join.settle(conn, waiting, answers, now, coalesce=self._coalesce, look=look)
        )
        self._tell(settled)
        return settled.left > 0

    def _look(self, waiting: Sequence[JoiningTask]) -> Mapping[str, CachedAnswer]:
        """What is kept for those who look. Asked outside the transaction: it may be another server."""
        return self._answers.look(sorted({one.key for one in waiting if one.looks}))

    def _tell(self, settled: Settled) -> None:
        tell_joined(self._database, self._reservoir, settled)
        if settled.callbacks:
            self._ring(settled.callbacks)
