"""The dispatcher as operators see it: its leader, quotas, keys, models and workers, and what limits throughput now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.pacing.domain.breaker import BreakerState
from app.pacing.domain.why import Binding, Bound
from app.reporting.domain.bottleneck import ModelBacklog, Service, find_bottleneck
from app.reporting.domain.snapshot import (
    BreakerSnapshot,
    DispatcherSnapshot,
    KeyView,
    LeaderSnapshot,
    LimitFigures,
    ModelView,
    PacingSnapshot,
    QuotaSnapshot,
    QuotaView,
    WorkerEntry,
    key_state,
    seen_by_workers,
)
from app.reporting.read_service import ServiceReader, ServiceSnapshot
from app.settings.domain.routing import WINDOW, Topology
from app.tasks.domain.pauses import Pauses
from app.upstreams.domain.key_health import Held, worse

LEADER_SILENT = 4.0  # seconds without a report after which there seems to be no leader


class ReadDispatcher:
    """Renders a service snapshot for operators. Never raises for what is unreachable."""

    def __init__(self, service: ServiceReader, topology: Topology, keys: Sequence[Held]) -> None:
        self._service = service
        self._topology = topology
        self._keys = tuple(keys)
        self._upstreams = _upstreams(topology, keys)

    def read(self) -> DispatcherSnapshot:
        """The dispatcher as it is now."""
        seen = self._service.read()
        gate, now, said = seen.pacing, seen.at, seen.report.get("dispatcher", {})
        leader = _leader(gate, said, now)
        models = seen.report.get("models", {}) if leader.beats else {}
        waiting = seen.waiting_by_model()
        quotas = [self._quota(name, gate, said, waiting, now) for name in self._topology.quota_ids]
        crews = _crews(seen)
        slots = gate.slots if gate else 0
        flight = sum(gate.flights.values()) if gate else sum(group.calls for group in seen.running)
        service = Service(
            database=seen.database,
            redis=gate is not None,
            leads=leader.beats,
            workers=len(crews),
            slots=slots,
            flight=flight,
            waiting=seen.waiting,
            backlogs=[
                ModelBacklog(model, count, self._binding(models[model]))
                for model, count in waiting.items()
                if model in models
            ],
            paused=Pauses.of(seen.pauses).in_words,
            upstreams=self._upstreams,
        )
        return DispatcherSnapshot(
            at=now,
            holdup=find_bottleneck(service),
            database=seen.database,
            redis=gate is not None,
            leader=leader,
            waiting=seen.waiting,
            flight=flight,
            slots=slots,
            pauses=seen.pauses,
            models=[
                _model(name, waiting.get(name, 0), models.get(name, {})) for name in self._topology.models
            ],
            quotas=quotas,
            keys=[self._key(held, seen, quotas) for held in self._keys],
            workers=crews,
        )

    def _binding(self, model: Mapping[str, Any]) -> Binding:
        """What limits a model, as the leader reports it; a configured limit is shown as configured."""
        bound, subject, figure = Bound(model["bound"]), model["subject"], model["figure"]
        configured = self._topology.quotas.get(subject)
        if configured is not None and figure is not None:
            named = {
                Bound.CALLS: configured.concurrency,
                Bound.REQUESTS: configured.rpm,
                Bound.TOKENS: configured.tpm,
            }.get(bound)
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
    ) -> QuotaView:
        kind, _, rest = name.partition(":")
        owner, _, model = rest.partition(":")
        configured = self._topology.quotas.get(name)
        state = (gate.quotas.get(name) if gate else None) or QuotaSnapshot(name)
        routes = [route for route in self._topology.routes if name in route.quotas]
        passing = [
            found
            for found, tiers in self._topology.models.items()
            if any(name in route.quotas for tier in tiers for route in tier)
        ]
        breaker = said.get("breakers", {}).get(name)
        return QuotaView(
            name,
            kind,
            owner,
            model,
            tuple(dict.fromkeys(route.upstream for route in routes)),
            LimitFigures(configured.rpm, configured.tpm, configured.concurrency)
            if configured
            else LimitFigures(),
            LimitFigures(**said.get("learned", {}).get(name, {})),
            _in_force(state),
            state.flight,
            int(said.get("last_minute", {}).get(name, 0)),
            sum(waiting.get(found, 0) for found in passing),
            now + state.braked_for if state.braked else None,
            state.why if state.braked else "",
            state.brakes,
            BreakerSnapshot(BreakerState(breaker[0]), breaker[1], now + breaker[2]) if breaker else None,
        )

    def _key(self, held: Held, seen: ServiceSnapshot, quotas: Sequence[QuotaView]) -> KeyView:
        names = {name for route in self._topology.routes if route.key == held.name for name in route.quotas}
        passed = [quota for quota in quotas if quota.id in names]
        status = worse(seen.health, held.name, held.account)
        state, reason = key_state(held.name, status, Pauses.of(seen.pauses), passed, seen.at)
        minute = seen.report.get("dispatcher", {}).get("last_minute", {})
        gate = seen.pacing
        return KeyView(
            held.name,
            held.upstream,
            held.account,
            state,
            reason,
            gate.flights.get(held.name, 0) if gate else 0,
            int(minute.get(f"key:{held.name}:*", 0)),
            status,
            tuple(quota.id for quota in passed),
            seen_by_workers([held.name], gate.reports)[held.name] if gate else 0,
            tuple(
                (model, fix.words)
                for (upstream, model), fixes in seen.fixes.items()
                for fix in fixes
                if upstream == held.upstream
            ),
        )


def _model(name: str, waiting: int, said: Mapping[str, Any]) -> ModelView:
    if not waiting:
        return ModelView(name, 0, None, None)
    return ModelView(name, waiting, said.get("words"), said.get("opens_in"))


def _leader(gate: PacingSnapshot | None, said: Mapping[str, Any], now: float) -> LeaderSnapshot:
    """Instants are in pacing time; their age gives the wall-clock time."""
    if gate is None:
        return LeaderSnapshot()
    if not said or said.get("term") != gate.term:
        return LeaderSnapshot(gate.term)
    age = max(0.0, gate.now - said["at"])
    since = now - max(0.0, gate.now - said["since"])
    return LeaderSnapshot(gate.term, age < LEADER_SILENT, since, now - age, int(said["turns"]))


def _crews(seen: ServiceSnapshot) -> list[WorkerEntry]:
    rows = {row.id: row for row in seen.workers}
    gate, now = seen.pacing, seen.at
    if gate is None:
        return [WorkerEntry(row.id, row.host, row.pid, (), None, None, row.beat_at) for row in rows.values()]
    found = []
    for report in gate.reports:
        row = rows.get(report.id)
        host, pid = (row.host, row.pid) if row else (None, None)
        found.append(
            WorkerEntry(report.id, host, pid, report.keys, report.slots, report.held, now - report.age)
        )
    return found


def _in_force(state: QuotaSnapshot) -> LimitFigures:
    return LimitFigures(
        None if state.rate is None else round(state.rate * WINDOW, 1),
        None if state.token_rate is None else round(state.token_rate * WINDOW),
        state.cap,
    )


def _upstreams(topology: Topology, keys: Sequence[Held]) -> dict[str, str]:
    """Whose each quota and each key is."""
    found = {held.name: held.upstream for held in keys}
    for route in topology.routes:
        for name in route.quotas:
            found.setdefault(name, route.upstream)
    return found
