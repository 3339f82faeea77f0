"""Periodic jobs over the database: cleaning, retention, usage, the audit chain and budgets. Each run is bounded.

All run in the leader's reconciler thread, one after the other. All raise DatabaseUnreachable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from app.access import audit_log
from app.access.manage_clients import read_limits
from app.access.store import clients
from app.billing.domain.budget import periods
from app.billing.store import budgets, usage
from app.caching.store import database_answers
from app.platform.background_loop import MORE
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.cost_models import CacheSettings
from app.settings.models import StorageSettings
from app.submission.admit import Admission
from app.submission.store_file import drop_file
from app.submission.submit_batch import INTAKE_SECONDS
from app.tasks.ports import BacklogPublisher
from app.tasks.store import files, retention
from app.tasks.store.submissions import delete_expired_keys, discard_intake, stale_intakes

_UPLOAD_DEAD = 2 * 3600.0  # seconds: no upload takes so long
_INTAKE_DEAD = 2 * INTAKE_SECONDS  # an intake that takes longer than INTAKE_SECONDS ends itself
_EMPTY_EVERY = 60.0  # seconds between emptying the log of a database in which something was erased
_AUDIT_ENTRIES = 2_000  # of one transaction
_BUDGET_TASKS = 1_000
_BUDGETS_KEPT = 100 * 86_400.0  # seconds: past the end of the longest period


def _drain(step: Callable[[], int], page: int, rounds: int) -> bool:
    """Repeat a step until it fills no page, `rounds` times at most. Returns whether it finished."""
    return any(step() < page for _ in range(rounds))


class CleanFiles:
    """Deletes files that nobody can see: expired and deleted ones, and uploads whose process died."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def tick(self) -> int:
        """Delete five files at most. Returns how many."""
        now = self._clock.now()
        self._database.write(lambda conn: files.hide_expired(conn, now, 100))
        gone = self._database.read(lambda conn: files.files_to_delete(conn, now - _UPLOAD_DEAD, 5))
        for seq in gone:
            drop_file(self._database, seq)
        return len(gone)


class CleanUp:
    """Deletes batches whose intake died with its process, and expired idempotency keys."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def tick(self) -> None:
        """Delete both, 20 transactions of 2,000 rows of each at most."""
        now, write = self._clock.now(), self._database.write
        for batch_id in self._database.read(lambda conn: stale_intakes(conn, now - _INTAKE_DEAD, limit=10)):
            step = partial(discard_intake, batch_id=batch_id, limit=2_000)
            _drain(partial(write, step), 1, 20)
        _drain(lambda: write(lambda conn: delete_expired_keys(conn, now, 2_000)), 2_000, 20)


class KeepRetention:
    """Erases and deletes what is no longer kept, in small transactions that nobody notices."""

    def __init__(self, database: Database, clock: Clock, settings: StorageSettings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._after = 0  # how far the walk has come
        self._among_batches = False  # it is done with tasks
        self._erased, self._emptied_at = False, 0.0

    def tick(self) -> None:
        """Erase what is not stored and delete what clients deleted, four transactions of 500 rows of each at most."""
        now = self._clock.now()
        before = now - self._settings.unstored
        unstored = partial(retention.erase_unstored, ended_before=before, now=now, limit=500)
        for step in (unstored, partial(retention.delete_marked, limit=500)):
            _drain(partial(self._erase, step), 500, 4)
        if self._erased and not 0 <= now - self._emptied_at < _EMPTY_EVERY:
            self._database.empty_log()
            self._erased, self._emptied_at = False, now

    def _erase(self, step: Callable[[Connection], int]) -> int:
        count = self._database.write(step)
        self._erased = self._erased or count > 0
        return count

    def walk(self) -> object:
        """Walk on over all that is too old, four transactions at most. Returns MORE until the walk is over.

        Tasks first, then the batches that they have left empty.
        """
        now = self._clock.now()
        before = now - self._settings.retention
        own = {name: now - seconds for name, seconds in self._own().items()}
        oldest = min([before, *own.values()])
        for _ in range(4):
            if self._among_batches:
                step = partial(retention.delete_empty_batches, after=self._after, before=oldest, limit=500)
            else:
                step = partial(retention.delete_old, after=self._after, before=before, own=own, limit=500)
            looked = self._database.write(step)
            self._after = looked.last or 0
            if looked.last is None:
                self._among_batches = not self._among_batches
                if not self._among_batches:
                    return None
        return MORE

    def _own(self) -> dict[str, float]:
        """Clients with a retention of their own, in seconds."""
        rows = self._database.read(clients.list_clients)
        found = {row.id: read_limits(row.settings).retention_seconds for row in rows}
        return {name: seconds for name, seconds in found.items() if seconds is not None}


def roll_up_usage(database: Database) -> None:
    """Add usage entries to their days, 20 transactions of 2,000 at most."""
    _drain(lambda: database.write(lambda conn: usage.fold_usage(conn, 2_000)), 2_000, 20)


def bound_cache(database: Database, clock: Clock, cache: CacheSettings, stale_seconds: float) -> None:
    """Delete cached answers that are too old, or beyond `entries`; 20 transactions of 2,000 at most."""
    step = partial(
        database_answers.bound,
        most=cache.entries,
        now=clock.now(),
        limit=2_000,
        eviction=cache.eviction,
        stale_seconds=stale_seconds,
    )
    _drain(lambda: database.write(step), 1, 20)


class ChainAudit:
    """Links new audit entries into the chain, and deletes its oldest ones."""

    def __init__(self, database: Database, clock: Clock, kept_seconds: float) -> None:
        self._database = database
        self._clock = clock
        self._kept_seconds = kept_seconds

    def tick(self) -> None:
        """Link five transactions of 2,000 entries at most."""
        if self._database.read(audit_log.count_unlinked):
            link = partial(audit_log.link_audit, limit=_AUDIT_ENTRIES)
            _drain(partial(self._database.write, link), _AUDIT_ENTRIES, 5)

    def forget(self) -> object:
        """Delete entries past their retention from the beginning of the chain. Returns MORE when some are left."""
        now = self._clock.now()
        before = now - self._kept_seconds
        forget = partial(audit_log.forget_audit, before=before, limit=_AUDIT_ENTRIES, now=now)
        return None if _drain(partial(self._database.write, forget), _AUDIT_ENTRIES, 5) else MORE


class SettleBudgets:
    """Replaces what ended tasks had reserved by what they used, and releases tasks that waited for a budget."""

    def __init__(
        self, database: Database, publisher: BacklogPublisher, admission: Admission, clock: Clock
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._admission = admission
        self._clock = clock

    def tick(self) -> None:
        """Settle five transactions of 1,000 tasks at most, and release up to 1,000 of each waiting client."""
        settle = partial(budgets.settle_ended, limit=_BUDGET_TASKS)
        _drain(partial(self._database.write, settle), _BUDGET_TASKS, 5)
        if sum(self._release(name) for name in self._database.read(budgets.clients_waiting)):
            self._publisher.wake()

    def forget(self) -> None:
        """Delete periods that ended long ago."""
        month = periods(self._clock.now() - _BUDGETS_KEPT)[1]
        self._database.write(lambda conn: budgets.forget_periods(conn, month))

    def _release(self, client_id: str) -> int:
        now = self._clock.now()
        return self._database.write(lambda conn: self._admission.release(conn, client_id, now, _BUDGET_TASKS))
