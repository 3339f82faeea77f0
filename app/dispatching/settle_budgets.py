"""The leader's chores of access: link the audit log each second, settle budgets, let go on what waited for one."""

from __future__ import annotations

from app.access import audit_log
from app.billing.domain.budget import periods
from app.billing.store import budgets
from app.platform.database import Database
from app.platform.ports import Clock
from app.submission.admit import Admission
from app.tasks.ports import BacklogPublisher

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
