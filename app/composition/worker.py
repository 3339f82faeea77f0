"""Worker processes: of one that calls upstreams the parts, start, reload and end; what delivers callbacks."""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection

from app.callbacks.callback_http import CallbackHttp, HostConcurrencyLimiter, HostLimits
from app.callbacks.deliver_callback import CallbackDelivery
from app.composition.container import Container
from app.execution.domain.retry import ModelRetryPolicy, Policies, RetryPolicy
from app.execution.in_flight import GRACE_SECONDS, CallsInFlight, DrainWorker, ReleasePermits, WorkerReadiness
from app.execution.report_worker import BeatWorker, ReportSlots, WorkerInstance
from app.execution.run_task import KeepAnswers, RunTask
from app.execution.store.claims import claim
from app.execution.store.endings import record_endings
from app.pacing.build_controllers import rests
from app.platform.database import Database, GroupCommit
from app.platform.domain.names import KEY, key_queue
from app.platform.domain.url_rules import TargetRules, parse_networks, parse_ports
from app.platform.redis_scripts import Scripts, connect
from app.settings import ConfigError, Settings
from app.settings.follow_configuration import ask_secrets
from app.settings.topology import keys_in
from app.tasks.domain.attempt import AttemptEnd, Claim, Claimed, Outcome, Recorded
from app.tasks.store import feeding
from app.upstreams.answer_streams import RedisStreamWriter
from app.upstreams.call_upstream import UpstreamGenerations, Upstreams, profile_of
from app.upstreams.held_secrets import HeldSecrets
from app.upstreams.learned_fixes import LearnedFixes

log = structlog.get_logger("penstock.worker")

_CLOSE_SECONDS = 1.0  # for each message that a process sends when it ends
_GATHER_SECONDS = 0.02  # for which a busy process collects claims and endings: short compared with a call


@dataclass(slots=True)
class WorkerProcess:
    """The parts of this process. The Celery task calls `runner`; the reload thread replaces its settings."""

    runner: RunTask
    _upstreams: UpstreamGenerations
    _fixes: LearnedFixes
    _concurrency: int
    _releases: ReleasePermits
    _slots: ReportSlots
    _beat: BeatWorker
    _drain: DrainWorker
    _close: Sequence[Callable[[], None]]

    def start(self) -> None:
        """Start the background loops. Nothing is released to this process until it is registered."""
        self._releases.start()
        self._drain.start()
        self._beat.start()
        self._slots.start()

    def renew(self, parts: Container, queues: Sequence[str]) -> None:
        """Switch to another configuration; running calls finish under the old one. Raises ConfigError."""
        keys = keys_of(parts.settings, queues)
        held = HeldSecrets(parts.settings, keys, os.environ, parts.clock, before=self._upstreams.held)
        self._upstreams.renew(_make_upstreams(parts, held, self._concurrency), held)
        self.runner.policies = policies(parts.settings)
        self.runner.answers = _keep_answers(parts)
        self._slots.consume(keys)

    def refresh(self) -> None:
        """Resolve the configured secrets again, for new calls, and read what all workers have learned."""
        self._upstreams.held.refresh()
        self._fixes.refresh()

    def begin_drain(self) -> None:
        """Accept no more tasks and let running calls finish. May be called from a signal handler."""
        self._drain.begin()
        self._slots.at_once()

    def close(self) -> None:
        """Sign off in Redis and the database. If they do not answer, the leader notices by itself."""
        self._drain.begin()
        if left := self._releases.close(_CLOSE_SECONDS):
            log.error("permits left to the leader", permits=left)
        self._slots.close(_CLOSE_SECONDS)
        self._beat.close(_CLOSE_SECONDS)
        for close in self._close:
            close()


def build_worker(parts: Container, queues: Sequence[str], concurrency: int) -> WorkerProcess:
    """Build the parts of a process that consumes these key queues with `concurrency` threads.

    Resolves the secrets of these keys. Raises ConfigError.
    """
    settings, clock, database = parts.settings, parts.clock, parts.database
    me = WorkerInstance(f"worker_{uuid.uuid4().hex}", socket.gethostname(), os.getpid())
    in_flight, readiness = CallsInFlight(), WorkerReadiness()
    keys = keys_of(settings, queues)
    secrets = HeldSecrets(settings, keys, os.environ, clock)
    upstreams = UpstreamGenerations(_make_upstreams(parts, secrets, concurrency), secrets)
    fixes = LearnedFixes(database, clock, ask_secrets)
    releases = ReleasePermits(parts.permits)
    claims: GroupCommit[Claim, Claimed | None] = GroupCommit(
        lambda group: database.write_single(lambda conn: _claim_in_order(conn, group)),
        gather_seconds=_GATHER_SECONDS,
    )
    endings: GroupCommit[AttemptEnd, Recorded] = GroupCommit(
        lambda group: _record(database, upstreams, group), gather_seconds=_GATHER_SECONDS
    )
    runner = RunTask(
        worker=me.id,
        permits=parts.permits,
        claims=claims,
        upstream=upstreams,
        endings=endings,
        releases=releases,
        in_flight=in_flight,
        readiness=readiness,
        policies=policies(settings),
        clock=clock,
        parse=orjson.loads,
        notify_callbacks=parts.callback_notifier.notify,
        streams=RedisStreamWriter(parts.scripts),
        answers=_keep_answers(parts),
        fixes=fixes,
        notify_waiters=parts.publisher.announce,
        postpone=lambda task, until, reason: database.write(
            lambda c: feeding.postpone(c, task, until, reason)
        ),
        meter=parts.meters,
        tracer=parts.tracer,
    )
    drain, beat = settings.worker.drain_seconds, settings.worker.beat_seconds
    return WorkerProcess(
        runner,
        upstreams,
        fixes,
        concurrency,
        releases,
        ReportSlots(me.id, keys, concurrency, parts.permits, in_flight, readiness, clock),
        BeatWorker(me, database, in_flight, readiness, clock, upstreams.wire, beat),
        DrainWorker(in_flight, readiness, upstreams.abort, seconds=drain, grace=GRACE_SECONDS),
        (
            claims.close,
            endings.close,
            parts.shared_answers.close,
            upstreams.close,
            database.close,
            parts.tracer.close,
        ),
    )


def _make_upstreams(parts: Container, held: HeldSecrets, concurrency: int) -> Upstreams:
    """The upstreams of the keys whose secrets are resolved. Raises ConfigError."""
    return Upstreams(
        parts.settings,
        held.secrets,
        concurrency=concurrency,
        clock=parts.clock,
        headers=held.headers,
    )


def _record(
    database: Database, upstreams: UpstreamGenerations, endings: Sequence[AttemptEnd]
) -> list[Recorded]:
    """Record how calls ended. The secret of a key that was refused (401) may have been rotated."""
    for ending in endings:
        if ending.outcome is Outcome.UNAUTHORIZED:
            upstreams.held.refused(ending.claimed.permit.key)
    return record_endings(database, endings)


def _keep_answers(parts: Container) -> KeepAnswers:
    """Prices and cache, as configured."""
    max_bytes = parts.settings.cache.most_bytes
    return KeepAnswers(orjson.loads, parts.prices, parts.shared_answers, max_bytes)


def quick_scripts(settings: Settings) -> Scripts:
    """Redis for Celery's main loop, which must not wait."""
    assert settings.redis_url is not None  # noqa: S101  # make_celery refuses a missing one
    return Scripts(connect(settings.redis_url, timeout=0.25, connections=4))


def keys_of(settings: Settings, queues: Sequence[str]) -> tuple[str, ...]:
    """The configured keys that these queues belong to."""
    return tuple(key.name for key in settings.keys if key_queue(key.name) in set(queues))


def policies(settings: Settings) -> Policies:
    """Retry policies and models, as configured."""
    retries = {
        name: RetryPolicy(
            p.attempts,
            p.base,
            p.cap,
            p.jitter,
            frozenset(p.retry_on),
            p.min,
            p.refusals,
            p.waits_when_refused,
            p.timeout,
        )
        for name, p in settings.retry.items()
    }
    models = {
        model.name: ModelRetryPolicy(
            model.retry,
            frozenset(route.key for tier in model.routes() for route in tier),
            frozenset(fall for tier in model.all_tiers for fall in tier.serves),
            model.timeout,
        )
        for model in settings.models
    }
    profiles = {upstream.name: profile_of(upstream) for upstream in settings.upstreams}
    return Policies(retries, models, rests(settings), profiles)


def refuse_queues(settings: Settings, queues: Sequence[str]) -> str | None:
    """Why a worker must not consume these queues, or None."""
    known = {key_queue(key.name) for key in settings.keys}
    for name in queues:
        if name.startswith("backlog."):
            return f"{name} is not for workers: only the dispatcher releases tasks from a backlog queue"
        if name == "celery":
            return _nothing_to_consume(settings)
        if name.startswith(KEY) and name not in known:
            return f"{name}: there is no [[key]] of that name"
    return None


def _nothing_to_consume(settings: Settings) -> str:
    """Why Celery fell back to its default queue."""
    if not settings.keys:
        return "no [[key]] is configured, so there is no queue to consume"
    if not settings.open_keys:
        return "every [[upstream]] is bound to its region: start it with --region"
    return "celery is not a queue of Penstock: name key queues with -Q"


def _claim_in_order(conn: Connection, claims: Sequence[Claim]) -> list[Claimed | None]:
    """One result for each claim; of two claims for one row, the first gets it."""
    found = claim(conn, claims)
    results = ((one, found.get(one.permit.task_id)) for one in claims)
    return [row if row is not None and row.permit is one.permit else None for one, row in results]


class FollowKeys:
    """Applies reloads to a worker process: upstreams, policies, and the queues of added and removed keys.

    A worker started without -Q follows all keys; one started for regions follows their keys; one started with
    queue names keeps those that still exist. Only the reload thread calls `take`.
    """

    def __init__(
        self, parts: Container, process: WorkerProcess, queues: Collection[str], regions: Collection[str] = ()
    ) -> None:
        """`regions`: those that the worker was started for."""
        self._parts = parts
        self._process = process
        self._queues = tuple(name for name in queues if name.startswith(KEY))
        self._followed = followed(parts.settings, self._queues, regions)
        self.consumer: Any = None  # Celery's, once it is there

    def take(self, settings: Settings) -> None:
        """Apply a configuration. Raises ConfigError, and changes nothing then.

        1. Switch upstreams and policies. 2. Stop consuming the queues of removed keys. 3. Consume those of added
        keys: the dispatcher releases to them from the next report on.
        """
        wanted = wanted_queues(settings, self._queues, self._followed)
        if not wanted:
            raise ConfigError(
                str(settings.path), None, "leaves this worker no key", "stop the worker instead"
            )
        self._process.renew(self._parts.renewed(settings), wanted)
        for name in set(self._queues) - set(wanted):
            self.consumer.call_soon(self.consumer.cancel_task_queue, name)
        for name in set(wanted) - set(self._queues):
            self.consumer.call_soon(self.consumer.add_task_queue, name, exchange="penstock", routing_key=name)
        self._queues = wanted


Followed = Callable[[Settings], tuple[str, ...]]  # the queues that a worker consumes under a configuration


def followed(settings: Settings, queues: Sequence[str], regions: Collection[str]) -> Followed | None:
    """How a worker that was started on these queues follows the configuration; None: they were named, and stay."""

    def of_regions(settings: Settings) -> tuple[str, ...]:
        return tuple(key_queue(name) for name in keys_in(settings, regions))

    kinds: tuple[Followed, ...] = (of_regions, all_queues) if regions else (all_queues,)
    return next((kind for kind in kinds if set(kind(settings)) == set(queues)), None)


def all_queues(settings: Settings) -> tuple[str, ...]:
    """The queues of all keys that are open to a worker without a region."""
    return tuple(key_queue(name) for name in settings.open_keys)


def wanted_queues(settings: Settings, now: Sequence[str], followed: Followed | None) -> tuple[str, ...]:
    """The queues that a worker consumes from now on."""
    if followed is not None:
        return followed(settings)
    known = {key_queue(key.name) for key in settings.keys}
    return tuple(name for name in now if name in known)


def build_callback_delivery(parts: Container) -> CallbackDelivery:
    """Build what delivers callbacks: one for each callback worker process."""
    settings = parts.settings.callbacks
    rules = TargetRules(parse_ports(settings.ports), parse_networks(settings.allow_networks))
    return CallbackDelivery(
        parts.database,
        CallbackHttp(rules, timeout_seconds=settings.timeout, ca_file=settings.ca_file or None),
        HostConcurrencyLimiter(parts.clock, HostLimits(at_once=settings.per_host)),
        parts.clock,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        chance=random.random,
        pause=time.sleep,
        public_url=settings.public_url,
        tracer=parts.tracer,
        meter=parts.meters,
    )
