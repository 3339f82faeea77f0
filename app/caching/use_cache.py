"""What a single submission does with the cache: it is answered at once, joins an identical task, or runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from app.caching.domain.answer import AnswerCache, CachedAnswer, NoAnswers
from app.caching.store.coalesce_join import Settled, admit, answer_new
from app.tasks.domain.task import Hold
from app.tasks.store.submissions import NewTask


@dataclass(frozen=True, slots=True)
class UseCache:
    """The decision and its hand; one for each process."""

    answers: AnswerCache = field(default_factory=NoAnswers)
    coalesce: bool = False

    def draft(self, row: NewTask) -> NewTask:
        """The row as it may be: content that is not to be stored is not kept either, nor shared."""
        return row if row.stored else replace(row, cache_key=None, cache_look=False, cache_seconds=None)

    def find(self, row: NewTask) -> CachedAnswer | None:
        """The answer that is there for a task that may run now. Never raises."""
        if row.hold != Hold.NONE or row.cache_key is None or not row.cache_look:
            return None
        return self.answers.look([row.cache_key]).get(row.cache_key)

    def join(
        self, conn: Connection, rows: Sequence[NewTask], found: Mapping[str, CachedAnswer]
    ) -> tuple[list[NewTask], Settled, dict[str, CachedAnswer]]:
        """The rows as they are to be inserted, in order, and all answers by task: `found`, and what is kept since."""
        running = [row for row in rows if row.id not in found]
        joined, settled, late = running, Settled(), dict[str, CachedAnswer]()
        if self.coalesce:
            joined, settled, late = admit(conn, running, self.answers.look)
        standing = {row.id: row for row in joined if row.id not in late}
        return [standing.get(row.id) or _answered(row) for row in rows], settled, {**found, **late}

    def give(self, conn: Connection, found: Mapping[str, CachedAnswer], at: float) -> None:
        """End those that were inserted with an answer, in the same transaction."""
        if found:
            answer_new(conn, found, at)


def _answered(row: NewTask) -> NewTask:
    """Inserted so that nobody runs it; it ends in the same transaction."""
    return replace(row, hold=Hold.JOINING, fed_at=None)
