"""Run failed tasks again, one or many: each becomes a new task with the same request, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Conflict, NotFound, Rejected
from app.platform.domain.names import is_id
from app.platform.ports import Clock
from app.submission.admit import Admission
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import FINAL, may_run_again
from app.tasks.ports import BacklogPublisher
from app.tasks.store import rerun


class RetryTask:
    """The use case."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        clock: Clock,
        admission: Admission | None = None,
    ) -> None:
        self._admission = admission
        self._database = database
        self._publisher = publisher
        self._clock = clock

    def retry(self, client_id: str | None, task_id: str) -> str:
        """Submit a failed or expired task again; returns the new task's id.

        `client_id` None: any owner. The new task has the old one's request, callback and time to live, and
        belongs to no batch; policies, limits and budget hold for it as for any submission. Raises NotFound, Conflict
        (it has not failed, would fail again, or was retried before), what admission refuses, DatabaseUnreachable.
        """
        found = (
            self._database.read(lambda conn: rerun.failed_task(conn, client_id, task_id))
            if is_id("task", task_id)
            else None
        )
        if found is None:
            raise NotFound(f"no task {task_id[:80]!r}", param="task_id", code="task_not_found")
        if not may_run_again(found.status, found.error_code, found.replaced_by):
            raise Conflict("this task cannot be run again", param="task_id", code="not_retryable")
        now = self._clock.now()
        new = self._database.write(lambda conn: rerun.rerun_task(conn, task_id, now, self._admit))
        if new is None:
            raise Conflict("this task was run again already", param="task_id", code="not_retryable")
        self._publisher.wake()
        return new

    def _admit(self, conn: Connection, rows: Sequence[NewTask]) -> Sequence[NewTask]:
        if self._admission is None:
            return rows
        drafted = [self._admission.draft(row) for row in rows]
        decided = self._admission.take(conn, drafted)
        admitted: list[NewTask] = []
        for row in drafted:
            found = decided.get(row.id, row)
            if isinstance(found, Rejected):
                raise found
            admitted.append(found)
        return admitted


MOST = 1000  # of one request, as each is its own transaction


@dataclass(frozen=True, slots=True)
class Retried:
    """The result of retrying many tasks."""

    task_ids: list[str]  # the new tasks
    has_more: bool  # more are left for the next request
    refusal: Rejected | None = None  # why admission stopped


class RetryTasks:
    """The use case."""

    def __init__(self, database: Database, retry: RetryTask) -> None:
        self._database = database
        self._retry = retry

    def retry(self, client_id: str, *, reason: str | None, since: float | None, limit: int = MOST) -> Retried:
        """Submit again, oldest first, what failed or expired with this `reason` (an error code) and ended at
        `since` or later. Lines of batches are not included: retry their batch.

        Stops where admission refuses. Raises DatabaseUnreachable.
        """
        found = self._database.read(
            lambda conn: rerun.failed_tasks(conn, client_id, reason, since, FINAL, limit + 1)
        )
        made: list[str] = []
        for task_id in found[:limit]:
            try:
                made.append(self._retry.retry(client_id, task_id))
            except (Conflict, NotFound):  # another request was first, or it was deleted
                continue
            except Rejected as refusal:
                return Retried(made, True, refusal)
        return Retried(made, len(found) > limit)
