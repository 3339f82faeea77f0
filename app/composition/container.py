"""The composition root: everything real is made here, on first use, and nowhere else."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import structlog
from celery import Celery

from app.access.request_rates import RedisRates
from app.billing.domain.pricing import PriceBook
from app.caching.domain.caching import AnswerCache, NoAnswers
from app.caching.local_answers import LocalAnswers
from app.caching.store.database_answers import DatabaseAnswers
from app.caching.store.redis_answers import RedisAnswers
from app.callbacks.store.callback_notifier import RedisCallbackNotifier
from app.execution.celery_app import Envelopes, make_celery
from app.pacing.ports import Explain
from app.pacing.store.backlog_publisher import RedisBacklogPublisher
from app.pacing.store.lines import Lines
from app.pacing.store.permits import RedisPermits
from app.platform.background_loop import count_failures
from app.platform.database import Database
from app.platform.encryption import use_vault
from app.platform.logs import configure_logs
from app.platform.ports import Clock, NoTracer, SystemClock, Tracer
from app.platform.redis_scripts import Scripts, connect
from app.reporting.measure_alerts import MeasureAlerts
from app.reporting.meters import Meters, cpu_busy
from app.reporting.send_alerts import AppriseNotifier, SendAlerts
from app.reporting.store.pacing_snapshot import PacingSnapshotReader, WaitReasonReader
from app.reporting.watch_alerts import (
    RUNBOOK,
    AlertLoop,
    NobodyLeads,
    NoteVitals,
    WatchAlerts,
    build_alert_config,
    build_alert_rules,
    build_channel_addresses,
)
from app.settings import ConfigError, Settings, load_settings, price_book
from app.settings.domain.routing import Topology
from app.settings.follow_configuration import FollowConfiguration
from app.settings.models import StorageSettings
from app.settings.topology import build_topology
from app.submission.submission_rules import vault_of
from app.tasks.ports import BacklogPublisher
from app.tasks.wait import RedisChanges
from app.upstreams.answer_streams import RedisStreamReader

log = structlog.get_logger("penstock.secrets")

API_TIMEOUT = 0.25  # seconds: a submission never waits longer for Redis
OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TIMEOUT = 5.0  # seconds: for processes that live by Redis


# What does not depend on the file: a reload keeps it.
_KEPT = (
    "database",
    "meters",
    "celery",
    "envelopes",
    "scripts",
    "publisher",
    "rates",
    "changes",
    "streams",
    "wait_reasons",
    "patient_publisher",
    "permits",
    "callback_notifier",
)


@dataclass
class Container:
    """All parts of one process, each made when first asked for."""

    settings: Settings
    clock: Clock = field(default_factory=SystemClock)

    def renewed(self, settings: Settings) -> Container:
        """The parts under another configuration, on the same database and Redis."""
        newer = Container(settings, self.clock)
        newer.__dict__.update({name: self.__dict__[name] for name in _KEPT if name in self.__dict__})
        return newer

    def follow(
        self, take: Callable[[Settings], object], refresh: Callable[[], object] = lambda: None
    ) -> FollowConfiguration:
        """Who hears of reloads; `refresh` resolves again what secrets this process holds beside the vault's."""
        storage = self.settings.storage

        def taken(settings: Settings) -> None:
            nonlocal storage
            vault_of(settings.storage, os.environ)  # a key that cannot be resolved: nothing is taken
            take(settings)
            storage = settings.storage

        def refreshed() -> None:
            _renew_vault(storage)
            refresh()

        return FollowConfiguration(
            self.database, self.settings, lambda: read_settings(os.environ), taken, refreshed
        )

    @property
    def redis_url(self) -> str:
        """Where Redis is."""
        return _needed(self.settings.redis_url, "REDIS_URL")

    @cached_property
    def database(self) -> Database:
        """The truth. Prompts and results in it are encrypted from here on, where a key is configured."""
        use_vault(vault_of(self.settings.storage, os.environ))
        database = Database(_needed(self.settings.database_url, "DATABASE_URL"), ended=self.meters.ended)
        self.meters.watch("penstock_database_connections", lambda: database.connections()[0])
        self.meters.watch("penstock_database_connections_limit", lambda: database.connections()[1])
        return database

    @cached_property
    def meters(self) -> Meters:
        """What this process counts."""
        meters = Meters(self.settings.metrics.clients)
        count_failures(meters.loop_failed)
        return meters

    def show_meters(self) -> None:
        """Serve this process's figures where the environment says so. Raises ConfigError."""
        if address := self.settings.metrics_address:
            try:
                self.meters.serve(address)
            except OSError as error:
                name, hint = "PENSTOCK_METRICS_ADDRESS", "give each process of a machine a port of its own"
                raise ConfigError(name, None, f"cannot listen there: {error.strerror}", hint) from error

    @cached_property
    def tracer(self) -> Tracer:
        """Where spans go: nowhere, and nothing is imported for it, unless an endpoint for them is set."""
        if not any(os.environ.get(name) for name in OTLP_VARIABLES):
            return NoTracer()
        from app.platform.traces import OtelTracer

        return OtelTracer()

    @cached_property
    def celery(self) -> Celery:
        """The Celery application: publishes here, consumed by workers."""
        return make_celery(self.settings)

    @cached_property
    def envelopes(self) -> Envelopes:
        """Messages as kombu writes them."""
        return Envelopes(self.celery)

    @cached_property
    def scripts(self) -> Scripts:
        """Redis for processes that live by it."""
        return Scripts(connect(self.redis_url, timeout=TIMEOUT, connections=1100))

    @cached_property
    def publisher(self) -> BacklogPublisher:
        """Backlog queues, as the API sees them: fails fast, and announces single submissions to Flower."""
        scripts = Scripts(connect(self.redis_url, timeout=API_TIMEOUT, connections=1100))
        return RedisBacklogPublisher(
            scripts, self.envelopes.encode, self.clock, announce_sent=self.envelopes.sent_event
        )

    @cached_property
    def rates(self) -> RedisRates:
        """Clients' requests per minute; fails fast, and open."""
        return RedisRates(Scripts(connect(self.redis_url, timeout=API_TIMEOUT, connections=1100)), self.clock)

    @cached_property
    def prices(self) -> PriceBook:
        """What upstreams ask for."""
        return price_book(self.settings)

    @cached_property
    def shared_answers(self) -> AnswerCache:
        """Answers kept for all processes: at CACHE_URL, else in the database."""
        cache, url = self.settings.cache, self.settings.cache_url
        if not cache.enabled:
            return NoAnswers()
        database = self.database  # with it begins encryption, where that is configured
        if url is None:
            return DatabaseAnswers(
                database, self.clock, eviction=cache.eviction, stale_seconds=self.settings.longest_stale
            )
        return RedisAnswers(
            url,
            self.clock,
            entries=cache.entries,
            longest_seconds=cache.longest_ttl,
            eviction=cache.eviction,
            stale_seconds=self.settings.longest_stale,
            broker_url=self.settings.redis_url,
        )

    @cached_property
    def answers(self) -> AnswerCache:
        """The same, with what this process remembers in front of it."""
        cache = self.settings.cache
        if not cache.enabled or not cache.local_seconds:
            return self.shared_answers
        return LocalAnswers(
            self.shared_answers, self.clock, seconds=cache.local_seconds, most_bytes=cache.local_bytes
        )

    @cached_property
    def changes(self) -> RedisChanges:
        """News of ended tasks."""
        return RedisChanges(self.redis_url)

    @cached_property
    def streams(self) -> RedisStreamReader:
        """Answers as they come from workers; each listener has a connection."""
        return RedisStreamReader(connect(self.redis_url, timeout=API_TIMEOUT, connections=10_000))

    @cached_property
    def pacing_snapshots(self) -> PacingSnapshotReader:
        """The gate, as people look at it: fails fast."""
        client = connect(self.redis_url, timeout=API_TIMEOUT, connections=4)
        return PacingSnapshotReader(client, self.topology.keys, self.topology.quota_ids)

    @property
    def explain(self) -> Explain:
        """Why tasks wait."""
        return self.wait_reasons

    @cached_property
    def wait_reasons(self) -> WaitReasonReader:
        """What the leader publishes; fails fast."""
        scripts = Scripts(connect(self.redis_url, timeout=API_TIMEOUT, connections=4))
        return WaitReasonReader(scripts, self.clock, Lines(self.database, self.clock))

    @cached_property
    def patient_publisher(self) -> RedisBacklogPublisher:
        """Backlog queues, as the leader sees them."""
        return RedisBacklogPublisher(self.scripts, self.envelopes.encode, self.clock)

    @cached_property
    def permits(self) -> RedisPermits:
        """The gate, as a worker sees it."""
        return RedisPermits(self.scripts)

    @cached_property
    def callback_notifier(self) -> RedisCallbackNotifier:
        """Wakes callback workers; fails fast, as the feeder finds what was missed."""
        scripts = Scripts(connect(self.redis_url, timeout=API_TIMEOUT, connections=1100))
        return RedisCallbackNotifier(scripts, self.celery, self.clock)

    def keep_alerts(
        self, *, may: Callable[[], bool] | None = None, requests: Callable[[], int] = lambda: 0
    ) -> AlertLoop:
        """The thread for alerts. It watches while `may` allows it; left out: while no leader beats."""
        me = f"{socket.gethostname()}:{os.getpid()}:{random.getrandbits(32):08x}"
        alerts = self.settings.alerts
        watch = WatchAlerts(
            me,
            self.database,
            MeasureAlerts(self.database, self.clock).read,
            self.sending_alerts,
            build_alert_config(alerts),
            self.clock,
        )
        return AlertLoop(
            self._vitals(me, requests), watch, may or NobodyLeads(self.pacing_snapshots, self.clock)
        )

    def keep_vitals(self) -> AlertLoop:
        """The same, which never watches."""
        return AlertLoop(self._vitals(f"{socket.gethostname()}:{os.getpid()}", lambda: 0))

    def _vitals(self, me: str, requests: Callable[[], int]) -> NoteVitals:
        return NoteVitals(me, socket.gethostname(), self.database, self.clock, cpu_busy, requests)

    @cached_property
    def sending_alerts(self) -> SendAlerts:
        """Sends alerts."""
        alerts = self.settings.alerts
        return SendAlerts(
            AppriseNotifier(),
            build_channel_addresses(alerts, os.environ),
            {rule.name: rule for rule in build_alert_rules(alerts)},
            alerts.runbook or RUNBOOK,
            self.database,
            self.clock,
            alerts.repeat,
        )

    @cached_property
    def topology(self) -> Topology:
        """Routes and configured quotas."""
        return build_topology(self.settings)


def from_environment(environ: Mapping[str, str] = os.environ) -> Container:
    """Load the settings that PENSTOCK_CONFIG and the environment name, and set up the logs. Raises ConfigError."""
    configure_logs()
    return Container(read_settings(environ))


def read_settings(environ: Mapping[str, str]) -> Settings:
    """What PENSTOCK_CONFIG and the environment name. Raises ConfigError."""
    path = environ.get("PENSTOCK_CONFIG")
    return load_settings(Path(path) if path else None, environ)


def _needed(value: str | None, name: str) -> str:
    if not value:
        raise ConfigError("environment", None, f"{name} is not set", f"set {name}, or use `penstock up`")
    return value


def _renew_vault(storage: StorageSettings) -> None:
    """Encrypt with what the references lead to now. One that fails leaves the vault as it is."""
    try:
        use_vault(vault_of(storage, os.environ))
    except ConfigError as error:
        log.error("an encryption key cannot be resolved again, the old one stays in use", reason=str(error))
