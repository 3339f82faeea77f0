"""A revoke in Celery or Flower cancels the row, and is not forgotten while the database is away."""

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

_MOST_WAITING = 100_000
_AGAIN_SECONDS = 1.0


class RevokeTasks:
    """Cancels in a thread of its own: who asks is Celery's main loop, which must not wait."""

    def __init__(
        self, database: Database, reservoir: BacklogPublisher, clock: Clock, cancelled: Callable[[str], None]
    ) -> None:
        """`cancelled` hears of each task that ended by a revoke."""
        self._database = database
        self._reservoir = reservoir
        self._clock = clock
        self._cancelled = cancelled
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._loop = BackgroundLoop(
            "revoke-tasks",
            self._all,
            every=None,
            expected=(DatabaseUnreachable,),
            backoff=(_AGAIN_SECONDS, _AGAIN_SECONDS),
        )

    def start(self) -> None:
        """Begin to cancel."""
        self._loop.start()

    def close(self) -> None:
        """Cancel no more."""
        self._loop.close(_AGAIN_SECONDS)

    def ask(self, task_ids: Iterable[str]) -> None:
        """Cancel these soon."""
        self._waiting.extend(task_ids)
        self._loop.ring()

    def _all(self) -> None:
        while self._waiting and not self._loop.stopping:
            self._one()

    def _one(self) -> None:
        """Raises DatabaseUnreachable; then it is asked again."""
        task_id = self._waiting[0]
        try:
            if self.revoke(task_id) is Status.CANCELLED:
                self._cancelled(task_id)
        except DatabaseUnreachable:
            raise
        except Exception as error:  # noqa: BLE001  # the others must not wait for a bad one
            log.error("a revoke failed", task_id=task_id, error=type(error).__name__)
        self._waiting.popleft()

    def revoke(self, task_id: str) -> Status | None:
        """Cancel one task; gives back its status then, None when there is none. Raises DatabaseUnreachable."""
        now = self._clock.now()
        status = self._database.write(partial(cancel_by_id, task_id=task_id, now=now))
        if status is Status.CANCELLED:
            self._reservoir.forget([task_id])
            self._reservoir.announce([task_id])
        return status
