"""Periodic jobs over the database: cleaning, retention, usage, the audit chain and budgets; each run is bounded."""

from __future__ import annotations

from functools import partial

from app.access import audit_log
from app.access.manage_clients import read_limits
from app.access.store import clients
from app.billing.domain.budget import periods
from app.billing.store import budgets, usage
from app.caching.store import database_answers
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.models import StorageSettings
from app.submission.admit import Admission
from app.submission.store_file import drop_file
from app.submission.submit_batch import INTAKE_SECONDS
from app.tasks.ports import BacklogPublisher
from app.tasks.store import files, retention
from app.tasks.store.submissions import delete_expired_keys, discard_intake, stale_intakes

CLEAN_FILES_EVERY = 60.0
_UPLOAD_DEAD = 2 * 3600.0  # seconds: no upload takes so long
_FILES_AT_ONCE = 5  # of one tick


class CleanFiles:
    """A tick does a bounded piece of it, once a minute."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._due_at = clock.monotonic()

    def tick(self) -> int:
        """Do a piece of it when it is due; gives back how many files went. Raises DatabaseUnreachable."""
        if self._clock.monotonic() < self._due_at:
            return 0
        self._due_at = self._clock.monotonic() + CLEAN_FILES_EVERY
        now = self._clock.now()
        self._database.write(lambda conn: files.hide_expired(conn, now, 100))
        gone = self._database.read(
            lambda conn: files.files_to_delete(conn, now - _UPLOAD_DEAD, _FILES_AT_ONCE)
        )
        for seq in gone:
            drop_file(self._database, seq)
        return len(gone)


CLEAN_UP_EVERY = 60.0
_INTAKE_DEAD = 2 * INTAKE_SECONDS  # an intake that takes longer than INTAKE_SECONDS ends itself
_CLEAN_ROWS = 2_000  # of one transaction
_CLEAN_ROUNDS = 20  # transactions of one tick


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
        self._due_at = self._clock.monotonic() + CLEAN_UP_EVERY
        self.discard_stale()
        self.forget_old_keys()

    def discard_stale(self) -> None:
        """Take back batches whose intake died with its process."""
        before = self._clock.now() - _INTAKE_DEAD
        for batch_id in self._database.read(lambda conn: stale_intakes(conn, before, limit=10)):
            self._discard(batch_id)

    def forget_old_keys(self) -> None:
        """Delete idempotency keys that are no longer kept."""
        now = self._clock.now()
        for _ in range(_CLEAN_ROUNDS):
            if self._database.write(lambda conn: delete_expired_keys(conn, now, _CLEAN_ROWS)) < _CLEAN_ROWS:
                break

    def _discard(self, batch_id: str) -> None:
        for _ in range(_CLEAN_ROUNDS):
            if not self._database.write(lambda conn: discard_intake(conn, batch_id, _CLEAN_ROWS)):
                break


_OLD_ROWS = 500  # of one transaction
_OLD_ROUNDS = 4  # transactions of one tick, of each kind
_WALK_EVERY = 600.0  # seconds between walks over all that might be old


class KeepRetention:
    """A tick does a bounded piece."""

    def __init__(self, database: Database, clock: Clock, settings: StorageSettings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._after = 0  # how far the walk has come
        self._among_batches = False  # it is done with tasks
        self._walk_at = clock.monotonic()

    def tick(self) -> None:
        """Erase what is not to be kept, delete what was asked for and what is too old. Raises DatabaseUnreachable."""
        now = self._clock.now()
        unstored = partial(
            retention.erase_unstored, ended_before=now - self._settings.unstored, now=now, limit=_OLD_ROWS
        )
        for step in (unstored, partial(retention.delete_marked, limit=_OLD_ROWS)):
            for _ in range(_OLD_ROUNDS):
                if self._database.write(step) < _OLD_ROWS:
                    break
        if self._clock.monotonic() >= self._walk_at:
            self._walk(now)

    def _walk(self, now: float) -> None:
        """Tasks first, then the batches that they have left empty."""
        before = now - self._settings.retention
        own = {name: now - seconds for name, seconds in self._own().items()}
        oldest = min([before, *own.values()])
        for _ in range(_OLD_ROUNDS):
            if self._among_batches:
                step = partial(
                    retention.delete_empty_batches, after=self._after, before=oldest, limit=_OLD_ROWS
                )
            else:
                step = partial(
                    retention.delete_old, after=self._after, before=before, own=own, limit=_OLD_ROWS
                )
            looked = self._database.write(step)
            self._after = looked.last or 0
            if looked.last is None:
                self._among_batches = not self._among_batches
                if not self._among_batches:
                    self._walk_at = self._clock.monotonic() + _WALK_EVERY
                    return

    def _own(self) -> dict[str, float]:
        """Clients with a retention of their own, in seconds."""
        rows = self._database.read(clients.list_clients)
        found = {row.id: read_limits(row.settings).retention_seconds for row in rows}
        return {name: seconds for name, seconds in found.items() if seconds is not None}


ROLL_UP_EVERY = 30.0
_USAGE_ROWS = 2_000  # of one transaction
_USAGE_ROUNDS = 20  # transactions of one tick


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
        self._due_at = self._clock.monotonic() + ROLL_UP_EVERY
        self.fold()
        self.bound()

    def fold(self) -> None:
        """Gather the ledger's entries into days."""
        for _ in range(_USAGE_ROUNDS):
            if self._database.write(lambda conn: usage.fold_usage(conn, _USAGE_ROWS)) < _USAGE_ROWS:
                break

    def bound(self) -> None:
        """Forget cached answers that are too old or too many."""
        now = self._clock.now()
        for _ in range(_USAGE_ROUNDS):
            if not self._database.write(
                lambda conn: database_answers.bound(conn, self._entries, now, _USAGE_ROWS)
            ):
                break


_ENTRIES = 2_000  # of one transaction
_TASKS = 1_000
_ROUNDS = 5  # transactions of one tick
_SLOWLY = 3600.0  # seconds between looks at what is too old


class ChainAudit:
    """Links new entries into the chain; once an hour takes from its beginning what is too old."""

    def __init__(self, database: Database, clock: Clock, kept_seconds: float) -> None:
        self._database = database
        self._clock = clock
        self._kept_seconds = kept_seconds
        self._due_at = clock.monotonic()

    def tick(self) -> None:
        """Do a bounded piece. Raises DatabaseUnreachable."""
        if self._database.read(audit_log.count_unlinked):
            for _ in range(_ROUNDS):
                if self._database.write(lambda conn: audit_log.link_audit(conn, _ENTRIES)) < _ENTRIES:
                    break
        if self._clock.monotonic() >= self._due_at:
            self._forget()

    def _forget(self) -> None:
        before = self._clock.now() - self._kept_seconds
        for _ in range(_ROUNDS):
            if self._database.write(lambda conn: audit_log.forget_audit(conn, before, _ENTRIES)) < _ENTRIES:
                self._due_at = self._clock.monotonic() + _SLOWLY
                return


class SettleBudgets:
    """Replaces what ended tasks had reserved by what they used, and lets tasks go on that waited for a budget."""

    def __init__(
        self, database: Database, reservoir: BacklogPublisher, admission: Admission, clock: Clock
    ) -> None:
        self._database = database
        self._reservoir = reservoir
        self._admission = admission
        self._clock = clock
        self._due_at = clock.monotonic()

    def tick(self) -> None:
        """Do a bounded piece. Raises DatabaseUnreachable."""
        for _ in range(_ROUNDS):
            if self._database.write(lambda conn: budgets.settle_ended(conn, _TASKS)) < _TASKS:
                break
        released = sum(self._release(name) for name in self._database.read(budgets.clients_waiting))
        if released:
            self._reservoir.ring()
        if self._clock.monotonic() >= self._due_at:
            self._due_at = self._clock.monotonic() + _SLOWLY
            self._forget()

    def _release(self, client_id: str) -> int:
        now = self._clock.now()
        return self._database.write(lambda conn: self._admission.release(conn, client_id, now, _TASKS))

    def _forget(self) -> None:
        month = periods(self._clock.now() - 100 * 86_400.0)[1]
        self._database.write(lambda conn: budgets.forget_periods(conn, month))
