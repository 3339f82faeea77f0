"""Cancel a task: at once while it waits, with its call while it runs."""

from __future__ import annotations

from app.platform.database import Database
from app.platform.domain.errors import Conflict, NotFound
from app.platform.domain.identity import is_id
from app.platform.ports import Clock
from app.tasks.domain.task import Status
from app.tasks.ports import BacklogPublisher
from app.tasks.store import transitions


class CancelTask:
    """The use case."""

    def __init__(self, database: Database, reservoir: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._reservoir = reservoir
        self._clock = clock

    def cancel(self, client_id: str, task_id: str) -> Status:
        """Cancel a client's task; repeating it is harmless. Gives back the status it has now.

        `running` means that its call is let finish: a success is kept, anything else ends `cancelled`.
        Raises NotFound, Conflict for one that ended otherwise, DatabaseUnreachable.
        """
        if not is_id("task", task_id):
            raise _not_found(task_id)
        now = self._clock.now()
        status = self._database.write(lambda conn: transitions.cancel_task(conn, client_id, task_id, now))
        if status is None:
            raise _not_found(task_id)
        if status.ended and status is not Status.CANCELLED:
            raise Conflict(f"the task has ended already: {status}", param="task_id", code="task_ended")
        if status is Status.CANCELLED:
            self._reservoir.forget([task_id])
            self._reservoir.announce([task_id])
        return status


def _not_found(task_id: str) -> NotFound:
    return NotFound(f"no task {task_id[:80]!r}", param="task_id", code="task_not_found")
