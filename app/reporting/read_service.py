"""One snapshot of the service, read once and rendered three times: dashboard, /v1/admin and /metrics.

Every read is bounded and uses an index. The longer a count takes, the less often it is repeated: reading takes at most
a twentieth of the time. What cannot be reached is left out, and the snapshot says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from app.access.manage_clients import read_limits
from app.billing.domain.budget import ceilings, periods, used_share
from app.execution.store import workers
from app.pacing.store.leader_state import load_pauses
from app.platform.background_loop import RateLimitedRead
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.reporting.domain.dashboard_view import WaitingLine, later_by_client, waiting_lines
from app.reporting.domain.recent_calls import SENT_SPAN
from app.reporting.domain.snapshot import OldestWait, PacingSnapshot, ServiceStatus, oldest_wait
from app.reporting.store import service_queries
from app.reporting.store.pacing_snapshot import PacingSnapshotReader, WaitReasonReader
from app.reporting.store.service_queries import RunningCalls
from app.upstreams.domain.key_health import Condition, KeyStatus
from app.upstreams.domain.request_parameters import ParameterFix
from app.upstreams.learned_fixes import KEPT_SECONDS, Place
from app.upstreams.store.health import load_fixes, load_health

COUNT_LIMIT = 1_000_000  # rows counted per client and per queue
_QUEUED_LIMIT = 50_000  # queued rows counted while Redis is unreachable
_LEADER_SILENT = 4.0  # seconds without a heartbeat after which there seems to be no leader
_WORKER_SILENT = 35.0  # seconds without a heartbeat in the database
_DATABASE_BACKOFF = 2.0  # seconds between attempts while the database is unreachable
_STATUS_SECONDS = 5.0  # age at which /metrics reads again


@dataclass(frozen=True, slots=True)
class _Counts:
    by_client: Mapping[str, int] = field(default_factory=dict)  # tasks that wait, for whatever reason
    stored: Mapping[str, int] = field(default_factory=dict)  # by queue: could run, still in the database
    queued: Mapping[str, int] = field(default_factory=dict)  # by queue; only while Redis is unreachable
    later: Mapping[str, int] = field(default_factory=dict)  # by client: scheduled, held or paused


Fixes = Mapping[Place, Sequence[ParameterFix]]  # by upstream and its name of a model


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """The service at one instant (Unix seconds)."""

    at: float
    pacing: PacingSnapshot | None  # None: Redis does not answer
    database: bool  # whether it answers
    leads: bool  # the leader's heartbeat advances
    report: Mapping[str, Any]  # of the leader
    waiting: int  # tasks that wait, for whatever reason
    lines: Sequence[WaitingLine]  # tasks that could run
    later: Mapping[str, int]  # by client: scheduled, held or paused
    running: Sequence[RunningCalls]
    pauses: Mapping[str, float] = field(default_factory=dict)  # by subject: since when
    health: Mapping[str, KeyStatus] = field(default_factory=dict)  # by key and account
    fixes: Fixes = field(default_factory=dict)  # learned
    workers: Sequence[workers.WorkerRow] = ()

    def waiting_by_model(self) -> dict[str, int]:
        """Tasks that could run."""
        return _total((line.model, line.total) for line in self.lines)

    def waiting_by_client(self) -> dict[str, int]:
        """Tasks that wait, for whatever reason."""
        return _total([*self.later.items(), *((line.client_id, line.total) for line in self.lines)])


class ServiceReader:
    """Reads snapshots; one per process, one thread at a time. Never raises for what is unreachable."""

    def __init__(
        self,
        database: Database,
        pacing: PacingSnapshotReader | None,
        report: WaitReasonReader | None,
        clock: Clock,
    ) -> None:
        """Without `pacing`, Redis counts as unreachable."""
        self.database, self.clock = database, clock
        self._pacing = pacing
        self._report = report
        self._lock = threading.Lock()
        self._counts = RateLimitedRead(_Counts(), 1.0, clock)
        self._running: RateLimitedRead[list[RunningCalls]] = RateLimitedRead([], 2.0, clock)
        self._fixes: RateLimitedRead[Fixes] = RateLimitedRead({}, 5.0, clock)
        self._beat: tuple[int, float] = (-1, 0.0)
        self._database_due = -1.0

    def read(self) -> ServiceSnapshot:
        """The service as it is now."""
        with self._lock:
            pacing = self._look()
            facts = self._query(pacing)
            counts = self._counts.value
        lines = waiting_lines(pacing.queues if pacing else counts.queued, counts.stored, COUNT_LIMIT)
        pauses, health, alive = facts or ({}, {}, ())
        known = sum(counts.by_client.values()) if facts else 0
        return ServiceSnapshot(
            at=self.clock.now(),
            pacing=pacing,
            database=facts is not None,
            leads=self._leads(pacing),
            report=self._report.said() if self._report and pacing else {},
            waiting=max(known, sum(line.total for line in lines)),
            lines=lines,
            later=counts.later,
            running=self._running.value,
            pauses=pauses,
            health=health,
            fixes=self._fixes.value,
            workers=alive,
        )

    def _look(self) -> PacingSnapshot | None:
        try:
            pacing = None if self._pacing is None else self._pacing.look()
        except RedisUnreachable:
            return None
        if pacing is not None and pacing.beat != self._beat[0]:
            self._beat = (pacing.beat, self.clock.monotonic())
        return pacing

    def _leads(self, pacing: PacingSnapshot | None) -> bool:
        silent = self.clock.monotonic() - self._beat[1]
        return pacing is not None and bool(pacing.term) and silent < _LEADER_SILENT

    def _query(
        self, pacing: PacingSnapshot | None
    ) -> tuple[dict[str, float], Mapping[str, KeyStatus], Sequence[workers.WorkerRow]] | None:
        """Pauses, health and live workers; None if the database does not answer."""
        if self.clock.monotonic() < self._database_due:
            return None
        read, now = self.database.read, self.clock.now()
        try:
            self._running.get(lambda: read(lambda conn: service_queries.running(conn, now - SENT_SPAN)))
            self._counts.get(lambda: read(lambda conn: self._count(conn, pacing)))
            alive = read(lambda conn: workers.alive(conn, now - _WORKER_SILENT))
            self._fixes.get(lambda: read(lambda conn: load_fixes(conn, now - KEPT_SECONDS)))
            return dict(read(load_pauses)), read(load_health), alive
        except DatabaseUnreachable:
            self._database_due = self.clock.monotonic() + _DATABASE_BACKOFF
            return None

    def _count(self, conn: Connection, pacing: PacingSnapshot | None) -> _Counts:
        queued = {} if pacing else service_queries.fed_by_queue(conn, _QUEUED_LIMIT)
        waiting = service_queries.waiting_by_client(conn, COUNT_LIMIT)
        stored = service_queries.unfed_by_queue(conn, COUNT_LIMIT)
        ready = waiting_lines(pacing.queues if pacing else queued, stored, COUNT_LIMIT)
        later = later_by_client(waiting, ready, moving=bool(self._running.value))
        return _Counts(waiting, stored, queued, later)


class ReadServiceStatus:
    """What /metrics exports, at most five seconds old however many threads ask: one reads, the others wait for it."""

    def __init__(self, service: ServiceReader) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._known = ServiceStatus()
        self._due = -1.0

    def read(self) -> ServiceStatus:
        """The status, at most five seconds old. Never raises for what is unreachable."""
        with self._lock:
            if self._service.clock.monotonic() >= self._due:
                self._known = self._read()
                self._due = self._service.clock.monotonic() + _STATUS_SECONDS
            return self._known

    def _read(self) -> ServiceStatus:
        seen = self._service.read()
        pacing = seen.pacing or PacingSnapshot()
        status = ServiceStatus(
            redis=seen.pacing is not None,
            database=seen.database,
            leads=seen.leads,
            workers=pacing.workers,
            slots=pacing.slots,
            waiting_by_model=seen.waiting_by_model(),
            waiting_by_client=seen.waiting_by_client(),
            quotas=pacing.quotas,
            disabled=bad_subjects(seen.health, "key", Condition.DISABLED),
            without_balance=bad_subjects(seen.health, "account", Condition.NO_BALANCE),
        )
        return self._with_budgets(status, seen.at) if seen.database else status

    def _with_budgets(self, status: ServiceStatus, now: float) -> ServiceStatus:
        try:
            oldest, budgets = self._service.database.read(
                lambda conn: (_oldest(conn, now), used_budgets(conn, now))
            )
        except DatabaseUnreachable:
            return status
        return replace(status, oldest=oldest, budgets=budgets)


def _oldest(conn: Connection, now: float) -> OldestWait:
    return oldest_wait(service_queries.waits(conn, now), now)


def bad_subjects(health: Mapping[str, KeyStatus], kind: str, condition: Condition) -> dict[str, float]:
    """1 for each key or account (`kind`) in this condition, 0 for the others."""
    return {
        name.partition(":")[2]: float(status.condition is condition)
        for name, status in health.items()
        if name.startswith(f"{kind}:")
    }


def used_budgets(conn: Connection, now: float) -> dict[str, float]:
    """The largest used share of each client's budgets, for clients that have one."""
    limits = {
        name: read_limits(settings) for name, settings in service_queries.settings_of_clients(conn).items()
    }
    allowed = {name: found for name, limit in limits.items() if (found := ceilings(limit, now))}
    if not allowed:
        return {}
    spent = service_queries.spent_in(conn, periods(now))
    return {name: used_share(ceiling, spent.get(name, {})) for name, ceiling in allowed.items()}


def _total(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in counts:
        found[name] = found.get(name, 0) + count
    return found
