"""Reads the values that alert rules check. What cannot be read is unknown and changes no alert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.ports import Clock
from app.reporting.domain.alerts import Readings
from app.reporting.domain.recent_calls import WINDOW_SECONDS, CallWindow
from app.reporting.domain.snapshot import oldest_wait
from app.reporting.read_service import bad_subjects, used_budgets
from app.reporting.store import service_queries
from app.reporting.store.alerts import load_vitals
from app.upstreams.domain.key_health import Condition, KeyStatus
from app.upstreams.store.health import load_health

_BACK = 5_000  # calls that a new watcher reads
_MOST = 20_000  # calls read at once


@dataclass(frozen=True, slots=True)
class _Found:
    calls: list[Any]
    waits: bool
    oldest_share: float
    budgets: dict[str, float]
    health: Mapping[str, KeyStatus]
    cpu: dict[str, float]
    requests: float


class MeasureAlerts:
    """Keeps the calls of the last minutes; one per watcher."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._window = CallWindow()
        self._after: int | None = None
        self._success_seen = 0.0

    def read(self) -> Readings:
        """A reading for every rule. Raises DatabaseUnreachable."""
        now = self._clock.now()
        found = self._database.read(lambda conn: self._find(conn, now))
        self._count(found.calls, now)
        dry = found.waits and self._window.last_success_at <= self._success_seen
        self._success_seen = self._window.last_success_at
        window = self._window
        return {
            "error_rate": {"": window.error_rate(now)},
            "error_rate_high": {"": window.error_rate(now)},
            "no_success": {"": float(dry)},
            "overhead": {"": window.overhead_p99(now)},
            "success_low": {"": window.failure_rate(now)},
            "overloaded": {"": window.overloaded_rate(now)},
            "cpu": found.cpu or None,
            "requests": {"": found.requests},
            "oldest_wait": {"": found.oldest_share},
            "key_disabled": bad_subjects(found.health, "key", Condition.DISABLED),
            "balance_low": bad_subjects(found.health, "account", Condition.NO_BALANCE),
            "budget": found.budgets,
            "refusals": {"": window.refusal_rate(now)},
            **{f"response_p{percent}": window.response(now, percent / 100) for percent in (50, 90, 99)},
        }

    def _find(self, conn: Connection, now: float) -> _Found:
        after = self._after
        if after is None:
            after = max(0, service_queries.last_call(conn) - _BACK)
        cpu, requests = load_vitals(conn, now)
        oldest = oldest_wait(service_queries.waits(conn, now), now)
        return _Found(
            service_queries.calls_after(conn, after, _MOST),
            service_queries.work_waits(conn),
            oldest.share,
            used_budgets(conn, now),
            load_health(conn),
            cpu,
            requests,
        )

    def _count(self, calls: list[Any], now: float) -> None:
        if self._after is None:
            self._after = 0
        for call in calls:
            self._after = max(self._after, call.seq)
            if call.finished_at >= now - WINDOW_SECONDS:
                overhead = None if call.released_at is None else call.started_at - call.released_at
                took = call.finished_at - call.started_at
                self._window.add(call.outcome, call.finished_at, overhead, call.upstream_model, took)
        self._window.forget(now)
