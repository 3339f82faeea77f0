"""How the dispatcher, its quotas, keys and workers stand: for operators, over HTTP and on the dashboard.

1. What Redis shows of the gate, and what the leader told last. 2. What the database knows: what waits, pauses, health,
workers. 3. Who holds work up, in one line. What cannot be reached is left out, and the line says so.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.execution.store import workers
from app.pacing.domain.breaker import BreakerState
from app.pacing.domain.why import Binding, Bound
from app.pacing.store.leader_state import load_pauses
from app.platform.background_loop import RateLimitedRead
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.reporting.domain.bottleneck import ModelBacklog, Service, bottleneck
from app.reporting.domain.dashboard_view import WaitingLine, waiting_lines
from app.reporting.domain.snapshot import (
    BreakerSnapshot,
    DispatcherSnapshot,
    KeyStanding,
    LeaderSnapshot,
    LimitFigures,
    ModelStanding,
    PacingSnapshot,
    QuotaSnapshot,
    QuotaStanding,
    WorkerStanding,
    key_state,
    seen_by_workers,
)
from app.reporting.store import service_queries
from app.settings.domain.routing import WINDOW, Topology
from app.tasks.domain.pauses import Pauses
from app.upstreams.domain.key_health import Held, KeyStatus, worse
from app.upstreams.store.health import load_health

MOST = 1_000_000  # rows counted of one client, and of one queue
_FED_MOST = 50_000  # fed rows looked at while Redis is away
LEADER_SILENT = 4.0  # seconds without a word after which nobody seems to lead
WORKER_SILENT = 35.0  # seconds without a beat in the database
_SENT = 60.0


class SnapshotReader(Protocol):
    """Looks at the gate."""

    def look(self) -> PacingSnapshot:
        """The gate as it stands. Raises RedisUnreachable."""


class LeaderReport(Protocol):
    """What the leader told last."""

    def said(self) -> Mapping[str, Any]:
        """All of it; empty when nobody tells anything or Redis does not answer."""


@dataclass(frozen=True, slots=True)
class _DatabaseFacts:
    """What the database says."""

    waiting: int = 0
    stored: Mapping[str, int] = field(default_factory=dict)
    fed: Mapping[str, int] = field(default_factory=dict)
    flight: int = 0
    pauses: Mapping[str, float] = field(default_factory=dict)
    health: Mapping[str, KeyStatus] = field(default_factory=dict)
    workers: Sequence[workers.WorkerRow] = ()


class ReadDispatcher:
    """The use case; one for a process. Never raises for what is out of reach."""

    def __init__(
        self,
        database: Database,
        gauge: SnapshotReader | None,
        told: LeaderReport | None,
        topology: Topology,
        keys: Sequence[Held],
        clock: Clock,
    ) -> None:
        self._database = database
        self._gauge = gauge
        self._told = told
        self._topology = topology
        self._keys = tuple(keys)
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: RateLimitedRead[tuple[int, Mapping[str, int], Mapping[str, int]]] = RateLimitedRead(
            (0, {}, {}), 1.0, clock
        )
        self._upstreams = _upstreams(topology, keys)

    def read(self) -> DispatcherSnapshot:
        """All of it, as it stands now."""
        with self._lock:
            gate = self._look()
            known = self._know(gate)
        said = dict(self._told.said().get("dispatcher", {})) if self._told and gate else {}
        models = dict(self._told.said().get("models", {})) if self._told and gate else {}
        return self._put_together(gate, known, said, models)

    def _look(self) -> PacingSnapshot | None:
        try:
            return None if self._gauge is None else self._gauge.look()
        except RedisUnreachable:
            return None

    def _know(self, gate: PacingSnapshot | None) -> _DatabaseFacts | None:
        now = self._clock.now()
        try:
            waiting, stored, fed = self._counts.get(lambda: self._count(gate))
            running = self._database.read(lambda conn: service_queries.running(conn, now - _SENT))
            return _DatabaseFacts(
                waiting,
                stored,
                fed,
                sum(group.calls for group in running),
                self._database.read(load_pauses),
                self._database.read(load_health),
                self._database.read(lambda conn: workers.alive(conn, now - WORKER_SILENT)),
            )
        except DatabaseUnreachable:
            return None

    def _count(self, gate: PacingSnapshot | None) -> tuple[int, Mapping[str, int], Mapping[str, int]]:
        waiting = self._database.read(lambda conn: service_queries.waiting_by_client(conn, MOST))
        stored = self._database.read(lambda conn: service_queries.unfed_by_queue(conn, MOST))
        fed = {} if gate else self._database.read(lambda conn: service_queries.fed_by_queue(conn, _FED_MOST))
        return sum(waiting.values()), stored, fed

    def _put_together(
        self,
        gate: PacingSnapshot | None,
        known: _DatabaseFacts | None,
        said: Mapping[str, Any],
        models: Mapping[str, Mapping[str, Any]],
    ) -> DispatcherSnapshot:
        now, facts = self._clock.now(), known or _DatabaseFacts()
        lines = waiting_lines(gate.queues if gate else facts.fed, facts.stored, MOST)
        leader = _leader(gate, said, now)
        trusted = models if leader.beats else {}
        waiting = _by_model(lines)
        quotas = [self._quota(name, gate, said, waiting, now) for name in self._topology.quota_ids]
        crews = _crews(gate, facts, now)
        slots = gate.slots if gate else 0
        flight = sum(gate.flights.values()) if gate else facts.flight
        pauses = Pauses.of(facts.pauses)
        line = bottleneck(
            Service(
                database=known is not None,
                redis=gate is not None,
                leads=leader.beats,
                workers=len(crews),
                slots=slots,
                flight=flight,
                waiting=max(facts.waiting, sum(waiting.values())),
                backlogs=[
                    ModelBacklog(model, count, self._binding(trusted[model]))
                    for model, count in waiting.items()
                    if model in trusted
                ],
                paused=pauses.in_words,
                upstreams=self._upstreams,
            )
        )
        return DispatcherSnapshot(
            at=now,
            holdup=line,
            database=known is not None,
            redis=gate is not None,
            leader=leader,
            waiting=max(facts.waiting, sum(waiting.values())),
            flight=flight,
            slots=slots,
            pauses=facts.pauses,
            models=[
                ModelStanding(
                    name,
                    waiting.get(name, 0),
                    trusted.get(name, {}).get("words") if waiting.get(name) else None,
                    trusted.get(name, {}).get("opens_in") if waiting.get(name) else None,
                )
                for name in self._topology.models
            ],
            quotas=quotas,
            keys=[self._key(held, gate, said, facts, quotas, now) for held in self._keys],
            workers=crews,
        )

    def _binding(self, model: Mapping[str, Any]) -> Binding:
        """What holds a model, as the leader told it; a told figure is named as it was told."""
        bound, subject, figure = Bound(model["bound"]), model["subject"], model["figure"]
        told = self._topology.quotas.get(subject)
        if told is not None and figure is not None:
            named = {Bound.CALLS: told.concurrency, Bound.REQUESTS: told.rpm, Bound.TOKENS: told.tpm}.get(
                bound
            )
            if named is not None and figure >= 0.9 * named - 1:
                figure = float(named)
        return Binding(bound, subject, figure, model["why"])

    def _quota(
        self,
        name: str,
        gate: PacingSnapshot | None,
        said: Mapping[str, Any],
        waiting: Mapping[str, int],
        now: float,
    ) -> QuotaStanding:
        kind, _, rest = name.partition(":")
        owner, _, model = rest.partition(":")
        told = self._topology.quotas.get(name)
        sight = (gate.quotas.get(name) if gate else None) or QuotaSnapshot(name)
        routes = [route for route in self._topology.routes if name in route.quotas]
        passing = [
            found
            for found, tiers in self._topology.models.items()
            if any(name in route.quotas for tier in tiers for route in tier)
        ]
        breaker = said.get("breakers", {}).get(name)
        return QuotaStanding(
            name,
            kind,
            owner,
            model,
            tuple(dict.fromkeys(route.upstream for route in routes)),
            LimitFigures(told.rpm, told.tpm, told.concurrency) if told else LimitFigures(),
            LimitFigures(**said.get("learned", {}).get(name, {})),
            _in_force(sight),
            sight.flight,
            int(said.get("last_minute", {}).get(name, 0)),
            sum(waiting.get(found, 0) for found in passing),
            now + sight.braked_for if sight.braked else None,
            sight.why if sight.braked else "",
            sight.brakes,
            BreakerSnapshot(BreakerState(breaker[0]), breaker[1], now + breaker[2]) if breaker else None,
        )

    def _key(
        self,
        held: Held,
        gate: PacingSnapshot | None,
        said: Mapping[str, Any],
        facts: _DatabaseFacts,
        quotas: Sequence[QuotaStanding],
        now: float,
    ) -> KeyStanding:
        names = {name for route in self._topology.routes if route.key == held.name for name in route.quotas}
        passed = [quota for quota in quotas if quota.id in names]
        standing = worse(facts.health, held.name, held.account)
        state, reason = key_state(held.name, standing, Pauses.of(facts.pauses), passed, now)
        minute = said.get("last_minute", {})
        return KeyStanding(
            held.name,
            held.upstream,
            held.account,
            state,
            reason,
            gate.flights.get(held.name, 0) if gate else 0,
            int(minute.get(f"key:{held.name}:*", 0)),
            standing,
            tuple(quota.id for quota in passed),
            seen_by_workers([held.name], gate.reports)[held.name] if gate else 0,
        )


def _leader(gate: PacingSnapshot | None, said: Mapping[str, Any], now: float) -> LeaderSnapshot:
    """Instants are told in gate time; from its age an instant of the wall follows."""
    if gate is None:
        return LeaderSnapshot()
    if not said or said.get("term") != gate.term:
        return LeaderSnapshot(gate.term)
    age = max(0.0, gate.now - said["at"])
    since = now - max(0.0, gate.now - said["since"])
    return LeaderSnapshot(gate.term, age < LEADER_SILENT, since, now - age, int(said["turns"]))


def _crews(gate: PacingSnapshot | None, facts: _DatabaseFacts, now: float) -> list[WorkerStanding]:
    rows = {row.id: row for row in facts.workers}
    if gate is None:
        return [
            WorkerStanding(row.id, row.host, row.pid, (), None, None, row.beat_at) for row in rows.values()
        ]
    found = []
    for report in gate.reports:
        row = rows.get(report.id)
        host, pid = (row.host, row.pid) if row else (None, None)
        found.append(
            WorkerStanding(report.id, host, pid, report.keys, report.slots, report.held, now - report.age)
        )
    return found


def _in_force(sight: QuotaSnapshot) -> LimitFigures:
    return LimitFigures(
        None if sight.rate is None else round(sight.rate * WINDOW, 1),
        None if sight.token_rate is None else round(sight.token_rate * WINDOW),
        sight.cap,
    )


def _by_model(lines: Sequence[WaitingLine]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in lines:
        found[line.model] = found.get(line.model, 0) + line.total
    return found


def _upstreams(topology: Topology, keys: Sequence[Held]) -> dict[str, str]:
    """Whose each quota and each key is."""
    found = {held.name: held.upstream for held in keys}
    for route in topology.routes:
        for name in route.quotas:
            found.setdefault(name, route.upstream)
    return found
