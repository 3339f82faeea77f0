"""The leader's chore for money: usage gathered by day, cached answers bounded."""

from __future__ import annotations

from app.billing.store import usage
from app.caching.store import database_answers
from app.platform.database import Database
from app.platform.ports import Clock

EVERY_SECONDS = 30.0
_ROWS = 2_000  # of one transaction
_ROUNDS = 20  # transactions of one tick


class RollUpUsage:
    """A tick does a bounded piece of it, twice a minute."""

    def __init__(self, database: Database, clock: Clock, *, entries: int) -> None:
        """`entries`: cached answers that the database keeps at most."""
        self._database = database
        self._clock = clock
        self._entries = entries
        self._due_at = clock.monotonic()

    def tick(self) -> None:
        """Do a piece of it when it is due. Raises DatabaseUnreachable."""
        if self._clock.monotonic() < self._due_at:
            return
        self._due_at = self._clock.monotonic() + EVERY_SECONDS
        self.fold()
        self.bound()

    def fold(self) -> None:
        """Gather the ledger's entries into days."""
        for _ in range(_ROUNDS):
            if self._database.write(lambda conn: usage.fold_usage(conn, _ROWS)) < _ROWS:
                break

    def bound(self) -> None:
        """Forget cached answers that are too old or too many."""
        now = self._clock.now()
        for _ in range(_ROUNDS):
            if not self._database.write(lambda conn: database_answers.bound(conn, self._entries, now, _ROWS)):
                break
