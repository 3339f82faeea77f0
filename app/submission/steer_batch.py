"""Pause a batch, resume it, run its failed lines again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from app.billing.domain.budget import Spent
from app.platform.database import Database
from app.platform.domain.errors import Conflict, NotFound
from app.platform.ports import Clock
from app.submission.admit import Admission
from app.tasks.domain.rows import BatchRow, NewTask
from app.tasks.domain.task import BatchStatus
from app.tasks.ports import BacklogPublisher
from app.tasks.read_batches import ReadBatches
from app.tasks.store import progress, rerun
from app.tasks.store.batches import get_batch
from app.tasks.store.locks import lock_batches
from app.tasks.store.progress import set_backfilling

_AT_ONCE = 5_000  # rows of one transaction; the feeder does the rest of a large batch
_LINES_AT_ONCE = 500  # lines run again in one transaction, with their prompts


class SteerBatch:
    """The use cases. Used by all request threads; the database decides between concurrent requests."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        clock: Clock,
        admission: Admission | None = None,
        models: Collection[str] = (),
    ) -> None:
        """`models`: the configured ones."""
        self._database = database
        self._publisher = publisher
        self._clock = clock
        self._admission = admission
        self._models = tuple(models)
        self._reader = ReadBatches(database)

    def pause(self, client_id: str, batch_id: str) -> BatchRow:
        """Start no more of its tasks; running calls finish. Repeating it is harmless.

        Raises NotFound, Conflict for a batch that is not in progress, DatabaseUnreachable.
        """
        self._reader.batch(client_id, batch_id)
        now = self._clock.now()

        def hold(conn: Connection) -> list[str]:
            row = lock_batches(conn, [batch_id])[batch_id]
            _must_run(row.status)
            if row.paused_at is None:
                progress.set_paused(conn, batch_id, now)
            held, void = progress.pause_rows(conn, batch_id, _AT_ONCE)
            set_backfilling(conn, batch_id, held == _AT_ONCE or bool(row.sweeping))
            return void

        self._publisher.forget(self._database.write(hold))
        return self._changed(client_id, batch_id)

    def resume(self, client_id: str, batch_id: str) -> BatchRow:
        """Resume it. Repeating it is harmless. Raises as `pause`."""
        self._reader.batch(client_id, batch_id)
        now = self._clock.now()

        def let_on(conn: Connection) -> None:
            row = lock_batches(conn, [batch_id])[batch_id]
            _must_run(row.status)
            if row.paused_at is None:
                return
            progress.end_pause(conn, row, now)
            moved = progress.resume_rows(conn, lock_batches(conn, [batch_id])[batch_id], now, _AT_ONCE)
            set_backfilling(conn, batch_id, moved == _AT_ONCE)

        self._database.write(let_on)
        return self._changed(client_id, batch_id)

    def retry(self, client_id: str, batch_id: str) -> BatchRow:
        """Run its failed lines again, only those; each becomes a new task.

        Raises NotFound, Conflict if no failed line could run again, what admission refuses,
        DatabaseUnreachable.
        """
        row = self._reader.batch(client_id, batch_id)
        if row.status in (BatchStatus.FAILED, BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise Conflict(f"the batch is {row.status}", param="batch_id", code="batch_ended")
        last = self._database.read(lambda conn: rerun.last_failed_line(conn, batch_id, self._models))
        if last is None:
            raise Conflict(
                "no failed line of the batch can be retried", param="batch_id", code="nothing_to_retry"
            )
        while self._some_again(batch_id, last) == _LINES_AT_ONCE:
            pass
        return self._changed(client_id, batch_id)

    def _some_again(self, batch_id: str, last: int) -> int:
        now = self._clock.now()
        return self._database.write(
            lambda conn: rerun.rerun_lines(
                conn, batch_id, self._models, last, now, _LINES_AT_ONCE, self._admit
            )
        )

    def _admit(self, conn: Connection, rows: Sequence[NewTask]) -> Sequence[NewTask]:
        if self._admission is None or not rows:
            return rows
        drafted = [self._admission.draft(row) for row in rows]
        wanted = Spent()
        for row in drafted:
            wanted += Spent(row.reserved_tokens or 0, row.reserved_picos or 0)
        self._admission.take_batch(conn, rows[0].client_id, wanted, rows[0].created_at)
        return drafted

    def _changed(self, client_id: str, batch_id: str) -> BatchRow:
        self._publisher.announce([batch_id])
        row = self._database.read(lambda conn: get_batch(conn, client_id, batch_id))
        if row is None:
            raise NotFound(f"no batch {batch_id[:80]!r}", param="batch_id", code="batch_not_found")
        return row


def _must_run(status: str) -> None:
    if status != BatchStatus.IN_PROGRESS:
        raise Conflict(f"the batch is {status}", param="batch_id", code="batch_not_running")
