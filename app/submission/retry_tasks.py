"""Run many failed tasks again: those of a reason, or since an instant, one submission each."""

from __future__ import annotations

from dataclasses import dataclass

from app.platform.database import Database
from app.platform.domain.errors import Conflict, NotFound, Rejected
from app.submission.retry_task import RetryTask
from app.tasks.domain.retry_eligibility import FINAL
from app.tasks.store import rerun

MOST = 1000  # of one request: each is a transaction of its own


@dataclass(frozen=True, slots=True)
class Retried:
    """What came of it."""

    task_ids: list[str]  # the new tasks
    has_more: bool  # others are left for the next request
    refusal: Rejected | None = None  # admission took no more


class RetryTasks:
    """The use case."""

    def __init__(self, database: Database, retry: RetryTask) -> None:
        self._database = database
        self._retry = retry

    def retry(self, client_id: str, *, reason: str | None, since: float | None, limit: int = MOST) -> Retried:
        """Submit again, oldest first, what failed or expired with this `reason` (an error code) and ended at
        `since` or later. Lines of batches are left to their batch's own retry.

        Stops where admission refuses. Raises DatabaseUnreachable.
        """
        found = self._database.read(
            lambda conn: rerun.failed_tasks(conn, client_id, reason, since, FINAL, limit + 1)
        )
        made: list[str] = []
        for task_id in found[:limit]:
            try:
                made.append(self._retry.retry(client_id, task_id))
            except (Conflict, NotFound):  # somebody else was first, or it was deleted
                continue
            except Rejected as refusal:
                return Retried(made, True, refusal)
        return Retried(made, len(found) > limit)
