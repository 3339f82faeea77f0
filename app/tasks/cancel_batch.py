"""Cancel a batch: what waits at once, what runs with its calls."""

from __future__ import annotations

from app.platform.database import Database
from app.platform.domain.errors import Conflict, NotFound
from app.platform.domain.identity import is_id
from app.platform.ports import Clock
from app.tasks.domain.batch import BatchStatus
from app.tasks.ports import BacklogPublisher
from app.tasks.store import batches, transitions
from app.tasks.store.batches import BatchRow

_HARMLESS = frozenset({BatchStatus.CANCELLING, BatchStatus.CANCELLED})


class CancelBatch:
    """The use case."""

    def __init__(self, database: Database, reservoir: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._reservoir = reservoir
        self._clock = clock

    def cancel(self, client_id: str, batch_id: str) -> BatchRow:
        """Cancel a client's batch; repeating it is harmless. Gives back the batch as it stands after.

        Raises NotFound, Conflict for one that ended otherwise, DatabaseUnreachable.
        """
        if not is_id("batch", batch_id):
            raise _not_found(batch_id)
        now = self._clock.now()
        ids = self._database.write(lambda conn: transitions.cancel_batch(conn, client_id, batch_id, now))
        row = self._database.read(lambda conn: batches.get_batch(conn, client_id, batch_id))
        if ids is None or row is None:
            raise _not_found(batch_id)
        if row.status not in _HARMLESS:
            raise Conflict(f"the batch has ended already: {row.status}", param="batch_id", code="batch_ended")
        self._reservoir.forget(ids)
        self._reservoir.announce([batch_id])  # who waits for one of its tasks hears of it from the database
        return row


def _not_found(batch_id: str) -> NotFound:
    return NotFound(f"no batch {batch_id[:80]!r}", param="batch_id", code="batch_not_found")
