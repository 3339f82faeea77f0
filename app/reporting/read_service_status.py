"""How the whole service stands, read at most every few seconds however many ask."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from sqlalchemy import Connection

from app.access.manage_clients import read_limits
from app.billing.domain.budget import ceilings, periods, used_share
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.reporting.domain.snapshot import OldestWait, QuotaSnapshot, ServiceStatus, oldest_wait
from app.reporting.read_dispatcher import SnapshotReader
from app.reporting.read_overview import Overview, ReadOverview
from app.reporting.store import service_queries
from app.settings import Settings
from app.settings.topology import build_topology
from app.upstreams.domain.key_health import Condition
from app.upstreams.domain.key_health import KeyStatus as KeyStanding
from app.upstreams.store.health import load_health

FRESH_SECONDS = 5.0


class ReadStanding:
    """The use case; one for a process. Never raises for what is out of reach."""

    def __init__(
        self, database: Database, gauge: SnapshotReader | None, settings: Settings, clock: Clock
    ) -> None:
        self._database = database
        self._gauge = gauge
        self._clock = clock
        self._overview = ReadOverview(database, gauge, build_topology(settings), clock)
        self._lock = threading.Lock()
        self._known = ServiceStatus()
        self._due = -1.0

    def read(self) -> ServiceStatus:
        """How things stand, at most five seconds old."""
        with self._lock:
            if self._clock.monotonic() >= self._due:
                self._known = self._read()
                self._due = self._clock.monotonic() + FRESH_SECONDS
            return self._known

    def _read(self) -> ServiceStatus:
        seen = self._overview.figures()
        oldest, budgets, health = self._rest() if seen.database else (None, {}, {})
        return ServiceStatus(
            redis=seen.redis,
            database=seen.database,
            leads=seen.leads,
            workers=seen.workers,
            slots=seen.slots,
            waiting_by_model=_by_model(seen),
            waiting_by_client=_by_client(seen),
            oldest=oldest,
            quotas=self._quotas(),
            budgets=budgets,
            disabled=bad_subjects(health, "key", Condition.DISABLED),
            without_balance=bad_subjects(health, "account", Condition.NO_BALANCE),
        )

    def _quotas(self) -> dict[str, QuotaSnapshot]:
        try:
            return {} if self._gauge is None else dict(self._gauge.look().quotas)
        except RedisUnreachable:
            return {}

    def _rest(self) -> tuple[OldestWait | None, dict[str, float], Mapping[str, KeyStanding]]:
        now = self._clock.now()
        try:
            return self._database.read(
                lambda conn: (
                    oldest_wait(service_queries.waits(conn, now), now),
                    used_budgets(conn, now),
                    load_health(conn),
                )
            )
        except DatabaseUnreachable:
            return None, {}, {}


def bad_subjects(health: Mapping[str, KeyStanding], kind: str, condition: Condition) -> dict[str, float]:
    """1 for each key or account (`kind`) that is in this condition, 0 for the others."""
    return {
        name.partition(":")[2]: float(standing.condition is condition)
        for name, standing in health.items()
        if name.startswith(f"{kind}:")
    }


def used_budgets(conn: Connection, now: float) -> dict[str, float]:
    """The largest used part of each client's budgets, of those who have one."""
    limits = {name: read_limits(told) for name, told in service_queries.settings_of_clients(conn).items()}
    allowed = {name: found for name, limit in limits.items() if (found := ceilings(limit, now))}
    if not allowed:
        return {}
    spent = service_queries.spent_in(conn, periods(now))
    return {name: used_share(ceiling, spent.get(name, {})) for name, ceiling in allowed.items()}


def _by_model(seen: Overview) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in seen.waiting:
        found[line.model] = found.get(line.model, 0) + line.total
    return found


def _by_client(seen: Overview) -> dict[str, int]:
    found = dict(seen.later)
    for line in seen.waiting:
        found[line.client_id] = found.get(line.client_id, 0) + line.total
    return found
