"""Delete a task on request: nobody sees it from then on, its content is erased, its rows follow in the background."""

from __future__ import annotations

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import NotFound
from app.platform.domain.identity import is_id
from app.platform.ports import Clock
from app.tasks.ports import BacklogPublisher
from app.tasks.store import retention
from app.tasks.store.transitions import cancel_task


class DeleteTask:
    """The use case."""

    def __init__(self, database: Database, reservoir: BacklogPublisher, clock: Clock) -> None:
        self._database = database
        self._reservoir = reservoir
        self._clock = clock

    def delete(self, client_id: str, task_id: str) -> None:
        """Cancel it if it has not ended (a running call is let finish, its result is kept nowhere), and delete it.

        Raises NotFound, DatabaseUnreachable.
        """
        now = self._clock.now()

        def mark(conn: Connection) -> bool:
            cancel_task(conn, client_id, task_id, now)
            return retention.mark_deleted(conn, client_id, task_id, now)

        if not is_id("task", task_id) or not self._database.write(mark):
            raise NotFound(f"no task {task_id[:80]!r}", param="task_id", code="task_not_found")
        self._reservoir.forget([task_id])
        self._reservoir.announce([task_id])
