"""Take files in behind the answers, in threads of this process; what others left behind is taken over."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import structlog

from app.db import file_batches
from app.db.database import Database
from app.domain.errors import DatabaseUnreachable
from app.services.hold_connections import HoldConnections
from app.services.ports import Clock
from app.services.take_in_file import TakeInFile

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
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._adopt_at = 0.0

    def taker(self) -> str:
        """What this process is known by, from now on alive. Raises DatabaseUnreachable."""
        self._holder.start()
        return self._holder.id

    def submit(self, batch_id: str) -> None:
        """Take a batch in soon: this process is its taker."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="intakes", daemon=True)
                self._thread.start()
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
        self._stop.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _adopt(self, batch_id: str) -> bool:
        taker = self.taker()
        return self._database.write(lambda conn: file_batches.adopt(conn, batch_id, taker))

    def _run(self) -> None:
        while not self._stop.is_set() and (batch_id := self._queue.get()) is not None:
            while not self._done(batch_id) and not self._stop.wait(_AGAIN_SECONDS):
                pass

    def _done(self, batch_id: str) -> bool:
        try:
            self._take_in.take_in(batch_id, self._holder.id)
        except DatabaseUnreachable:
            return False
        except Exception as error:  # noqa: BLE001 - one bad file must not end the thread
            log.error("an intake met an error of ours", batch_id=batch_id, error=type(error).__name__)
            return self._given_up(batch_id)
        return True

    def _given_up(self, batch_id: str) -> bool:
        try:
            self._take_in.give_up(batch_id, self._holder.id)
        except DatabaseUnreachable:
            return False
        return True
