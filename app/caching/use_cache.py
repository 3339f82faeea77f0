"""How tasks use the cache: each is answered from it, joins an identical task, or runs.

Single submissions do so at once (`UseCache`); tasks of batches, those that became due, and those whose leader brings no
answer, in the leader's rounds (`JoinIdentical`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from app.caching.domain.caching import AnswerCache, CachedAnswer, Fallback, NoAnswers
from app.caching.store import coalesce_join
from app.caching.store.coalesce_join import JoiningTask, JoinResult, admit, answer_new
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold
from app.tasks.ports import BacklogPublisher
from app.tasks.store.feeding import mark_unqueued


@dataclass(frozen=True, slots=True)
class UseCache:
    """The cache as submissions use it; one per process."""

    answers: AnswerCache = field(default_factory=NoAnswers)
    coalesce: bool = False
    fallbacks: Mapping[str, Fallback] = field(default_factory=dict)  # by model

    def find(self, row: NewTask) -> CachedAnswer | None:
        """The cached answer for a task that may run now. Never raises."""
        if row.hold != Hold.NONE or row.cache_key is None or not row.cache_look:
            return None
        return self.answers.look([row.cache_key]).get(row.cache_key)

    def fall_back(self, row: NewTask, now: float) -> CachedAnswer | None:
        """What answers a task whose model nothing can serve now, if it allows that. Never raises."""
        fallback = self.fallbacks.get(row.model)
        if row.hold != Hold.NONE or row.degrade_at is None or fallback is None:
            return None
        key = row.cache_key if row.cache_look else None
        cached = self.answers.look([key], stale=True).get(key) if key is not None else None
        return fallback.answer(row.id, row.model, cached, now)

    def join(
        self, conn: Connection, rows: Sequence[NewTask], found: Mapping[str, CachedAnswer]
    ) -> tuple[list[NewTask], JoinResult, dict[str, CachedAnswer]]:
        """The rows as to be inserted, in order, and all answers by task: `found`, and those cached since."""
        running = [row for row in rows if row.id not in found]
        joined, settled, late = running, JoinResult(), dict[str, CachedAnswer]()
        if self.coalesce:
            joined, settled, late = admit(conn, running, self.answers.look)
        joined_rows = {row.id: row for row in joined if row.id not in late}
        return [joined_rows.get(row.id) or _answered(row) for row in rows], settled, {**found, **late}

    def give(self, conn: Connection, found: Mapping[str, CachedAnswer], at: float) -> None:
        """End inserted tasks that have an answer, in the same transaction."""
        if found:
            answer_new(conn, found, at)


def _answered(row: NewTask) -> NewTask:
    """Held so that nobody runs it; it ends in the same transaction."""
    return replace(row, hold=Hold.JOINING, fed_at=None)


def publish_join(database: Database, backlog: BacklogPublisher, settled: JoinResult) -> None:
    """Delete void queue entries, move leaders to the front, notify waiters. Never raises: the reconciler does the rest.

    A leader that hurries first loses its queue entry and is then fed again: in the other order, its new entry would be
    lost.
    """
    away = [*settled.replaced, *settled.hurried]
    if away:
        backlog.forget(away)
    if settled.hurried:
        try:
            database.write(lambda conn: mark_unqueued(conn, settled.hurried))
        except DatabaseUnreachable:
            return
    if settled.ended:
        backlog.announce(settled.ended)
    elif settled.hurried or settled.released:
        backlog.wake()


_ROWS = 1_000  # waiting tasks per tick
_LEADERS = 200  # abandoned leaders per tick


class JoinIdentical:
    """Each tick runs one bounded round, before the feeder's."""

    def __init__(
        self,
        database: Database,
        backlog: BacklogPublisher,
        answers: AnswerCache,
        clock: Clock,
        *,
        coalesce: bool,
        notify: Callable[[Sequence[str]], object] = lambda _callbacks: None,
    ) -> None:
        """`notify` wakes the callback delivery."""
        self._database = database
        self._backlog = backlog
        self._answers = answers
        self._clock = clock
        self._coalesce = coalesce
        self._notify = notify

    def tick(self) -> bool:
        """Run one round; returns whether there may be more now. Raises DatabaseUnreachable.

        1. Replace leaders that bring no answer. 2. Answer, join or release the tasks that wait for it.
        """
        left, waiting = self._database.read(
            lambda conn: (coalesce_join.any_abandoned(conn), coalesce_join.waiting_to_join(conn, _ROWS))
        )
        changed = self._take_over() if left else False
        again = self._join(waiting) if waiting else False
        return changed or again or len(waiting) == _ROWS

    def _take_over(self) -> bool:
        now = self._clock.now()
        settled = self._database.write(lambda conn: coalesce_join.replace_abandoned(conn, _LEADERS, now))
        self._tell(settled)
        return bool(settled.ended)

    def _join(self, waiting: Sequence[JoiningTask]) -> bool:
        answers, look = self._look(waiting), self._answers.look
        now = self._clock.now()
        settled = self._database.write(
            lambda conn: coalesce_join.join_waiting(
                conn, waiting, answers, now, coalesce=self._coalesce, look=look
            )
        )
        self._tell(settled)
        return settled.left > 0

    def _look(self, waiting: Sequence[JoiningTask]) -> Mapping[str, CachedAnswer]:
        """Cached answers for waiting tasks. Read outside the transaction: the cache may be another server."""
        return self._answers.look(sorted({one.key for one in waiting if one.looks}))

    def _tell(self, settled: JoinResult) -> None:
        publish_join(self._database, self._backlog, settled)
        if settled.callbacks:
            self._notify(settled.callbacks)
