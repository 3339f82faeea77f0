"""Revokes from Celery or Flower cancel the row; they are retried while the database is away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.tasks.domain.task import Status
from app.tasks.ports import BacklogPublisher
from app.tasks.store.transitions import cancel_by_id

log = structlog.get_logger("penstock.worker")

_MAX_QUEUED = 100_000
_RETRY_SECONDS = 1.0


class RevokeTasks:
    """Cancels in a thread of its own, because Celery's main loop, which asks, must not wait.

    The deque is filled by the main loop and emptied by the thread.
    """

    def __init__(
        self, database: Database, backlog: BacklogPublisher, clock: Clock, cancelled: Callable[[str], None]
    ) -> None:
        """`cancelled` is called with each task that a revoke ended."""
        self._database = database
        self._backlog = backlog
        self._clock = clock
        self._cancelled = cancelled
        self._waiting: deque[str] = deque(maxlen=_MAX_QUEUED)
        self._loop = BackgroundLoop(
            "revoke-tasks",
            self._all,
            every=None,
            expected=(DatabaseUnreachable,),
            backoff=(_RETRY_SECONDS, _RETRY_SECONDS),
        )

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """Stop the thread."""
        self._loop.close(_RETRY_SECONDS)

    def ask(self, task_ids: Iterable[str]) -> None:
        """Cancel these tasks soon."""
        self._waiting.extend(task_ids)
        self._loop.wake()

    def _all(self) -> None:
        while self._waiting and not self._loop.stopping:
            self._one()

    def _one(self) -> None:
        """Raises DatabaseUnreachable, and is called again then."""
        task_id = self._waiting[0]
        try:
            if self.revoke(task_id) is Status.CANCELLED:
                self._cancelled(task_id)
        except DatabaseUnreachable:
            raise
        except Exception as error:  # noqa: BLE001  # the others must not wait for a bad one
            log.error("revoke failed", task_id=task_id, error=type(error).__name__)
        self._waiting.popleft()

    def revoke(self, task_id: str) -> Status | None:
        """Cancel a task. Returns its status after that, None if it does not exist. Raises DatabaseUnreachable."""
        now = self._clock.now()
        status = self._database.write(partial(cancel_by_id, task_id=task_id, now=now))
        if status is Status.CANCELLED:
            self._backlog.forget([task_id])
            self._backlog.announce([task_id])
        return status
