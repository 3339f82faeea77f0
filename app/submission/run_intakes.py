"""Take files in behind the answers, in threads of this process; what others left behind is taken over."""

from __future__ import annotations

from queue import SimpleQueue

import structlog

from app.platform.background_loop import END, BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.submission.hold_connections import HoldConnections
from app.submission.store import file_batches
from app.submission.take_in_file import TakeInFile

log = structlog.get_logger("penstock.intake")

_AGAIN_SECONDS = 1.0  # after the database did not answer
_ADOPT_EVERY = 5.0
_ADOPTED_AT_ONCE = 10


class RunIntakes:
    """One thread, born with the first intake; `holder` is what the process is known by while it lives."""

    def __init__(
        self, take_in: TakeInFile, database: Database, holder: HoldConnections, clock: Clock
    ) -> None:
        self._take_in = take_in
        self._database = database
        self._holder = holder
        self._clock = clock
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._now: str | None = None  # what is being taken in
        self._loop = BackgroundLoop(
            "intakes",
            self._next,
            expected=(DatabaseUnreachable,),
            backoff=(_AGAIN_SECONDS, _AGAIN_SECONDS),
            wake=lambda: self._queue.put(None),
        )
        self._adopt_at = 0.0

    def taker(self) -> str:
        """What this process is known by, from now on alive. Raises DatabaseUnreachable."""
        self._holder.start()
        return self._holder.id

    def submit(self, batch_id: str) -> None:
        """Take a batch in soon: this process is its taker."""
        self._loop.start()
        self._queue.put(batch_id)

    def tick(self) -> int:
        """Take over, every few seconds, what dead processes left; gives back how many. The leader's chore."""
        if self._clock.monotonic() < self._adopt_at:
            return 0
        self._adopt_at = self._clock.monotonic() + _ADOPT_EVERY
        left = self._database.read(lambda conn: file_batches.orphaned(conn, _ADOPTED_AT_ONCE))
        adopted = [batch_id for batch_id in left if self._adopt(batch_id)]
        for batch_id in adopted:
            self.submit(batch_id)
        return len(adopted)

    def close(self) -> None:
        """Let the thread end after what it does now; what waits is taken over by another process."""
        self._loop.close()

    def _adopt(self, batch_id: str) -> bool:
        taker = self.taker()
        return self._database.write(lambda conn: file_batches.adopt(conn, batch_id, taker))

    def _next(self) -> object:
        """Take in what is next; while the database is away, that is the same again. Raises DatabaseUnreachable."""
        self._now = self._now or self._queue.get()
        if self._now is None:
            return END
        self._done(self._now)
        self._now = None
        return None

    def _done(self, batch_id: str) -> None:
        try:
            self._take_in.take_in(batch_id, self._holder.id)
        except DatabaseUnreachable:
            raise
        except Exception as error:  # noqa: BLE001 - one bad file must not keep the others waiting
            log.error("an intake met an error of ours", batch_id=batch_id, error=type(error).__name__)
            self._take_in.give_up(batch_id, self._holder.id)
