"""What the dispatcher process needs, put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from app.access.manage_policies import PolicyBook
from app.access.store import clients
from app.caching.use_cache import JoinIdentical
from app.callbacks.feed_callbacks import CallbackFeeder
from app.composition.container import Container
from app.dispatching.dispatch import Dispatcher
from app.dispatching.feed_backlog import Feeder
from app.dispatching.housekeeping import (
    ChainAudit,
    CleanFiles,
    CleanUp,
    KeepRetention,
    SettleBudgets,
    bound_cache,
    roll_up_usage,
)
from app.dispatching.key_supervisor import KeySupervisor
from app.dispatching.leadership import LeaderElection
from app.dispatching.publish_wait_reasons import PublishWaitReasons
from app.dispatching.reconcile import EndedPermits, Expiry, LostWorkers, QueuedRows, RetriesAhead
from app.dispatching.tick_handoff import ClientShares, PersistEstimates, RequeueTasks, TraceReleases
from app.dispatching.waiting_tasks import AbandonCalls, ExpireUnreachable, GiveDegraded, ScheduleOffPeak
from app.pacing.build_controllers import make_health, make_rate_controller
from app.pacing.store.pacing_store import RedisPacingStore
from app.pacing.store.permits import STALE
from app.platform.background_loop import EACH_ROUND, PeriodicJob
from app.platform.domain.errors import DatabaseUnreachable
from app.reporting.store.pacing_snapshot import WaitReasonWriter
from app.settings.price_lists import windows_of
from app.submission.admit import Admission
from app.submission.create_file_batch import RunIntakes
from app.submission.hold_connections import HoldConnections
from app.submission.submission_rules import admission_of, fallbacks_of, rules_of, serving_places
from app.submission.take_in_file import TakeInFile
from app.upstreams.key_tests import UpstreamTests

_PLACES_EVERY = 5.0  # seconds between looks at which places policies forbid


@dataclass
class LeaderProcess:
    """What the dispatcher process needs."""

    parts: Container
    stale: float = STALE

    def __post_init__(self) -> None:
        parts = self.parts
        self.clock = parts.clock
        self.database = parts.database
        self.publisher = parts.patient_publisher
        self.gate = RedisPacingStore(parts.scripts, unreadable=parts.meters.set_aside)
        self.candidate = LeaderElection(self.gate, self.clock)
        self.controller = make_rate_controller(parts.topology, parts.settings)
        self.learned = PersistEstimates(self.database, self.controller, self.clock)
        policies = self.policies = PolicyBook(self.database, self.clock, parts.settings.access.default)
        self.places = serving_places(parts.settings)
        self._places_known: tuple[float, Mapping[str, Mapping[str, str]]] = (-1e9, {})
        self.watch = KeySupervisor(
            self.database,
            make_health(parts.settings),
            UpstreamTests(parts.settings, os.environ, self.clock),
            self.clock,
            self.gate.release_brake,
            self._forbidden_places,
        )
        self.shares = ClientShares(self.database)
        self.why = PublishWaitReasons(WaitReasonWriter(parts.scripts))
        self.tracing = TraceReleases(self.database, parts.tracer)
        self.dispatcher = Dispatcher(
            self.gate,
            parts.topology,
            self.shares.known,
            controller=self.controller,
            wall=self.clock.now,
            why=self.why,
            watch=self.watch,
            trace=self.tracing.released,
        )
        self.feeder = Feeder(self.database, self.publisher, self.gate, self.clock)
        self.requeueing = RequeueTasks(self.database, self.publisher)
        cache = parts.settings.cache
        self.joiner = JoinIdentical(
            self.database,
            self.publisher,
            parts.shared_answers,
            self.clock,
            coalesce=cache.enabled and cache.coalesce,
            notify=parts.callback_notifier.notify,
        )
        rules, limits = rules_of(parts.settings), parts.settings.api
        line, most = limits.max_task_body, limits.max_batch_body
        admission = admission_of(parts.settings, self.database, self.clock, policies)
        take_in = TakeInFile(
            self.database, self.publisher, rules, self.clock, admission, line, parts.meters, most
        )
        silence = 3 * parts.settings.worker.beat_seconds
        self.holder = HoldConnections(self.database, self.clock)
        self.intakes = RunIntakes(take_in, self.database, self.holder, self.clock)
        self.jobs = self._jobs(silence, admission)

    def _forbidden_places(self) -> Mapping[str, Mapping[str, str]]:
        """What policies close to each client now. Raises DatabaseUnreachable."""
        until, known = self._places_known
        if (now := self.clock.monotonic()) < until:
            return known
        teams = {row.id: row.team or "" for row in self.database.read(clients.list_clients)}
        found = self.policies.forbidden_places(teams, self.places) if self.policies.decisive else {}
        self._places_known = (now + _PLACES_EVERY, found)
        return found

    def _jobs(self, silence: float, admission: Admission) -> list[PeriodicJob]:
        """What the reconciler thread does, in this order. `silence`: seconds after which a worker is lost."""
        parts, database, clock = self.parts, self.database, self.clock
        publisher, settings = self.publisher, self.parts.settings
        lost = LostWorkers(database, self.gate, publisher, clock, parts.meters, silence)
        audit = ChainAudit(database, clock, settings.access.audit_retention)
        budgets = SettleBudgets(database, publisher, admission, clock)
        retention = KeepRetention(database, clock, settings.storage)
        degraded = GiveDegraded(
            database,
            publisher,
            clock,
            fallbacks_of(settings),
            parts.callback_notifier.notify,
            answers=parts.shared_answers,
            down=lambda: self.why.down,
        )
        late = ExpireUnreachable(database, publisher, clock, parts.topology, lambda: self.why.lists)
        off_peak = ScheduleOffPeak(database, publisher, clock, windows_of(settings), self.why.pace_of)
        each = EACH_ROUND
        return [
            PeriodicJob("lost workers", each, lost.tick),
            PeriodicJob("expiry", each, Expiry(database, publisher, clock).tick),
            PeriodicJob("queued rows", each, QueuedRows(database, self.gate, clock).tick),
            PeriodicJob("retries ahead", each, RetriesAhead(database, publisher, clock).tick),
            PeriodicJob("ended permits", each, EndedPermits(database, self.gate, parts.permits).tick),
            PeriodicJob("callbacks", each, CallbackFeeder(database, parts.callback_notifier, clock).tick),
            PeriodicJob("clean up", 60.0, CleanUp(database, clock).tick),
            PeriodicJob("usage", 30.0, partial(roll_up_usage, database)),
            PeriodicJob(
                "cache", 30.0, partial(bound_cache, database, clock, settings.cache, settings.longest_stale)
            ),
            PeriodicJob("abandoned calls", each, AbandonCalls(database, publisher, clock).tick),
            PeriodicJob("files", 60.0, CleanFiles(database, clock).tick),
            PeriodicJob("intakes", each, self.intakes.tick),
            PeriodicJob("audit chain", each, audit.tick),
            PeriodicJob("audit retention", 3600.0, audit.forget),
            PeriodicJob("budgets", each, budgets.tick),
            PeriodicJob("budget periods", 3600.0, budgets.forget),
            PeriodicJob("retention", each, retention.tick),
            PeriodicJob("retention walk", 600.0, retention.walk),
            PeriodicJob("estimates", 10.0, self.learned.keep),
            PeriodicJob("degraded answers", each, degraded.tick),
            PeriodicJob("unreachable deadlines", 5.0, late.tick),
            PeriodicJob("off-peak tasks", 5.0, off_peak.tick),
        ]

    @property
    def upstream_of_key(self) -> Mapping[str, str]:
        """Each key's upstream."""
        return {key.name: key.upstream for key in self.parts.settings.keys}

    def close(self) -> None:
        """End the threads that it started. The next leader takes over what they had in hand."""
        self.tracing.close()
        self.intakes.close()
        try:
            self.holder.close()
        except DatabaseUnreachable:
            pass  # its heartbeat stops, so another process finds it dead

    def feed(self) -> float:
        """One round of joining and feeding. Returns seconds until the next is due unless woken."""
        more = self.joiner.tick()
        pause = self.feeder.tick()
        return 0.0 if more else pause

    def configure(self) -> None:
        """Begin to lead: read shares, estimates, pauses and key health, and write the limits to the pacing store."""
        self.shares.look()
        self.learned.recall()
        self.watch.recall()
        self.gate.configure(self.controller.limits(0.0, {}))
