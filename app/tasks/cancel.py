"""Cancel tasks and batches, and delete tasks: what waits ends at once, what runs ends with its upstream call."""

from __future__ import annotations

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Conflict, NotFound
from app.platform.domain.names import is_id
from app.platform.ports import Clock
from app.tasks.domain.rows import BatchRow
from app.tasks.domain.task import BatchStatus, Status
from app.tasks.ports import BacklogPublisher
from app.tasks.store import batches, retention, transitions
from app.tasks.store.transitions import cancel_task


class CancelTask:
    """The use case."""

    def __init__(self, database: Database, backlog: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._backlog = backlog
        self._clock = clock

    def cancel(self, client_id: str, task_id: str) -> Status:
        """Cancel a client's task and return its status now; repeating it is harmless.

        `running`: its call may finish; a success is kept, anything else ends `cancelled`.
        Raises NotFound, Conflict for one that ended otherwise, DatabaseUnreachable.
        """
        if not is_id("task", task_id):
            raise _no_task(task_id)
        now = self._clock.now()
        status = self._database.write(lambda conn: transitions.cancel_task(conn, client_id, task_id, now))
        if status is None:
            raise _no_task(task_id)
        if status.ended and status is not Status.CANCELLED:
            raise Conflict(f"the task has ended already: {status}", param="task_id", code="task_ended")
        if status is Status.CANCELLED:
            self._backlog.forget([task_id])
            self._backlog.announce([task_id])
        return status


def _no_task(task_id: str) -> NotFound:
    return NotFound(f"no task {task_id[:80]!r}", param="task_id", code="task_not_found")


_HARMLESS = frozenset({BatchStatus.CANCELLING, BatchStatus.CANCELLED})


class CancelBatch:
    """The use case."""

    def __init__(self, database: Database, backlog: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._backlog = backlog
        self._clock = clock

    def cancel(self, client_id: str, batch_id: str) -> BatchRow:
        """Cancel a client's batch and return it as it is now; repeating it is harmless.

        Raises NotFound, Conflict for one that ended otherwise, DatabaseUnreachable.
        """
        if not is_id("batch", batch_id):
            raise _no_batch(batch_id)
        now = self._clock.now()
        ids = self._database.write(lambda conn: transitions.cancel_batch(conn, client_id, batch_id, now))
        row = self._database.read(lambda conn: batches.get_batch(conn, client_id, batch_id))
        if ids is None or row is None:
            raise _no_batch(batch_id)
        if row.status not in _HARMLESS:
            raise Conflict(f"the batch has ended already: {row.status}", param="batch_id", code="batch_ended")
        self._backlog.forget(ids)
        self._backlog.announce([batch_id])  # waiters for one of its tasks learn of it from the database
        return row


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"no batch {batch_id[:80]!r}", param="batch_id", code="batch_not_found")


class DeleteTask:
    """The use case."""

    def __init__(self, database: Database, backlog: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._backlog = backlog
        self._clock = clock

    def delete(self, client_id: str, task_id: str) -> None:
        """Cancel the task if it has not ended, and delete it; a running call may finish, but its result is not kept.

        Raises NotFound, DatabaseUnreachable.
        """
        now = self._clock.now()

        def mark(conn: Connection) -> bool:
            cancel_task(conn, client_id, task_id, now)
            return retention.mark_deleted(conn, client_id, task_id, now)

        if not is_id("task", task_id) or not self._database.write(mark):
            raise NotFound(f"no task {task_id[:80]!r}", param="task_id", code="task_not_found")
        self._backlog.forget([task_id])
        self._backlog.announce([task_id])
