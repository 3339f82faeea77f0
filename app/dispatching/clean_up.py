"""Remove what nobody will ask for again: batches that never came in whole, idempotency keys past their day."""

from __future__ import annotations

from app.platform.database import Database
from app.platform.ports import Clock
from app.submission.submit_batch import INTAKE_SECONDS
from app.tasks.store.submissions import delete_expired_keys, discard_intake, stale_intakes

EVERY_SECONDS = 60.0
_SURELY_DEAD = 2 * INTAKE_SECONDS  # an intake that takes longer than INTAKE_SECONDS ends itself
_ROWS = 2_000  # of one transaction
_ROUNDS = 20  # transactions of one tick


class CleanUp:
    """The leader's chore; a tick does a bounded piece of it, once a minute."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._due_at = clock.monotonic()

    def tick(self) -> None:
        """Do a piece of it when it is due. Raises DatabaseUnreachable."""
        if self._clock.monotonic() < self._due_at:
            return
        self._due_at = self._clock.monotonic() + EVERY_SECONDS
        self.discard_stale()
        self.forget_old_keys()

    def discard_stale(self) -> None:
        """Take back batches whose intake died with its process."""
        before = self._clock.now() - _SURELY_DEAD
        for batch_id in self._database.read(lambda conn: stale_intakes(conn, before, limit=10)):
            self._discard(batch_id)

    def forget_old_keys(self) -> None:
        """Delete idempotency keys that are no longer kept."""
        now = self._clock.now()
        for _ in range(_ROUNDS):
            if self._database.write(lambda conn: delete_expired_keys(conn, now, _ROWS)) < _ROWS:
                break

    def _discard(self, batch_id: str) -> None:
        for _ in range(_ROUNDS):
            if not self._database.write(lambda conn: discard_intake(conn, batch_id, _ROWS)):
                break
