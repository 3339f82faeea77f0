"""One worker process for upstream calls: everything that it is made of, its start and its end."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection

from app.composition.container import Container
from app.execution.domain.retry import RetryPolicy
from app.execution.in_flight import GRACE_SECONDS, CallsInFlight, DrainWorker, WorkerReadiness
from app.execution.release_permits import ReleasePermits
from app.execution.report_worker import BeatWorker, ReportSlots, WorkerInstance
from app.execution.run_task import KeepAnswers, ModelRetryPolicy, Policies, RunTask
from app.execution.store.claims import claim
from app.execution.store.endings import record_endings
from app.pacing.build_controllers import rests
from app.platform.database import Database, GroupCommit
from app.platform.domain.names import KEY, key_queue
from app.platform.redis_scripts import Scripts, connect
from app.settings import ConfigError, Settings
from app.settings.topology import keys_in
from app.tasks.domain.attempt import AttemptEnd, Claim, Claimed, Outcome, Recorded
from app.tasks.store import feeding
from app.upstreams.answer_streams import RedisStreamWriter
from app.upstreams.call_upstream import UpstreamGenerations, Upstreams
from app.upstreams.held_secrets import HeldSecrets

log = structlog.get_logger("penstock.worker")

_CLOSE_SECONDS = 1.0  # for each of the words that a process says at its end
_REDIS_TIMEOUT = 5.0
_GATHER_SECONDS = 0.02  # that a busy process gives claims and endings to come together: little beside a call


@dataclass(slots=True)
class WorkerProcess:
    """The parts of this process. `runner` is what the Celery task calls."""

    runner: RunTask
    _upstreams: UpstreamGenerations
    _concurrency: int
    _settling: ReleasePermits
    _reporting: ReportSlots
    _beating: BeatWorker
    _draining: DrainWorker
    _closing: Sequence[Callable[[], None]]

    def start(self) -> None:
        """Begin to beat, to report and to settle. Until the first beat, nothing is released to this process."""
        self._settling.start()
        self._draining.start()
        self._beating.start()
        self._reporting.start()

    def renew(self, parts: Container, queues: Sequence[str]) -> None:
        """Go on under another configuration; running calls end in the old one. Raises ConfigError."""
        keys = keys_of(parts.settings, queues)
        held = HeldSecrets(parts.settings, keys, os.environ, parts.clock, before=self._upstreams.held)
        self._upstreams.renew(make_upstreams(parts, held, self._concurrency), held)
        self.runner.policies = policies(parts.settings)
        self.runner.keeping = make_keeping(parts)
        self._reporting.consume(keys)

    def refresh(self) -> None:
        """Make new calls with the secrets that the configuration's references lead to now."""
        self._upstreams.held.refresh()

    def begin_drain(self) -> None:
        """Take nothing more; running calls get their time. May be called from a signal handler."""
        self._draining.begin()
        self._reporting.at_once()

    def close(self) -> None:
        """Say goodbye: Redis and the database are told if they answer, else the leader finds out."""
        self._draining.begin()
        left = self._settling.close(_CLOSE_SECONDS)
        if left:
            log.error("permits are left to the leader", permits=left)
        self._reporting.close(_CLOSE_SECONDS)
        self._beating.close(_CLOSE_SECONDS)
        for close in self._closing:
            close()


def build_worker(parts: Container, queues: Sequence[str], concurrency: int) -> WorkerProcess:
    """Make everything that a process needs which consumes these key queues with so many threads.

    Resolves the secrets of these keys. Raises ConfigError.
    """
    settings, clock, database = parts.settings, parts.clock, parts.database
    me = WorkerInstance(f"worker_{uuid.uuid4().hex}", socket.gethostname(), os.getpid())
    held, state = CallsInFlight(), WorkerReadiness()
    keys = keys_of(settings, queues)
    secrets = HeldSecrets(settings, keys, os.environ, clock)
    upstreams = UpstreamGenerations(make_upstreams(parts, secrets, concurrency), secrets)
    settling = ReleasePermits(parts.permits)
    claims: GroupCommit[Claim, Claimed | None] = GroupCommit(
        lambda wishes: database.write_single(lambda conn: _claim_in_order(conn, wishes)),
        gather_seconds=_GATHER_SECONDS,
    )
    endings: GroupCommit[AttemptEnd, Recorded] = GroupCommit(
        lambda ends: _record(database, upstreams, ends), gather_seconds=_GATHER_SECONDS
    )
    runner = RunTask(
        worker=me.id,
        permits=parts.permits,
        claims=claims,
        upstream=upstreams,
        endings=endings,
        settling=settling,
        held=held,
        state=state,
        policies=policies(settings),
        clock=clock,
        parse=orjson.loads,
        ring=parts.callback_bell.ring,
        streams=RedisStreamWriter(parts.scripts),
        keeping=make_keeping(parts),
        announce=parts.reservoir.announce,
        put_off=lambda task, until, code: database.write(lambda c: feeding.postpone(c, task, until, code)),
        meter=parts.meters,
        tracer=parts.tracer,
    )
    drain, beat = settings.worker.drain_seconds, settings.worker.beat_seconds
    return WorkerProcess(
        runner,
        upstreams,
        concurrency,
        settling,
        ReportSlots(me.id, keys, concurrency, parts.permits, held, state, clock),
        BeatWorker(me, database, held, state, clock, upstreams.wire, beat),
        DrainWorker(held, state, upstreams.abort, seconds=drain, grace=GRACE_SECONDS),
        (
            claims.close,
            endings.close,
            parts.shared_answers.close,
            upstreams.close,
            database.close,
            parts.tracer.close,
        ),
    )


def make_upstreams(parts: Container, held: HeldSecrets, concurrency: int) -> Upstreams:
    """All upstreams of the keys whose secrets are held. Raises ConfigError."""
    return Upstreams(
        parts.settings, held.secrets, concurrency=concurrency, clock=parts.clock, outfits=held.outfits
    )


def _record(database: Database, upstreams: UpstreamGenerations, ends: Sequence[AttemptEnd]) -> list[Recorded]:
    """Record how calls ended; who was refused as unknown may have had its secret rotated."""
    for ending in ends:
        if ending.outcome is Outcome.UNAUTHORIZED:
            upstreams.held.refused(ending.claimed.permit.key)
    return record_endings(database, ends)


def make_keeping(parts: Container) -> KeepAnswers:
    """What puts a price on answers, and keeps them."""
    most = parts.settings.cache.most_bytes
    return KeepAnswers(orjson.loads, parts.prices, parts.shared_answers, most)


def quick_scripts(settings: Settings) -> Scripts:
    """Redis for Celery's main loop, which must not wait."""
    assert settings.redis_url is not None  # noqa: S101  # make_celery has refused otherwise
    return Scripts(connect(settings.redis_url, timeout=0.25, connections=4))


def keys_of(settings: Settings, queues: Sequence[str]) -> tuple[str, ...]:
    """The configured keys whose queues these are."""
    return tuple(key.name for key in settings.keys if key_queue(key.name) in set(queues))


def policies(settings: Settings) -> Policies:
    """Retry policies and models, as configured."""
    retries = {name: RetryPolicy(p.attempts, p.base, p.cap, p.jitter) for name, p in settings.retry.items()}
    models = {
        model.name: ModelRetryPolicy(
            model.retry,
            frozenset(route.key for tier in model.routes() for route in tier),
            frozenset(fall for tier in model.all_tiers for fall in tier.serves),
        )
        for model in settings.models
    }
    return Policies(retries, models, rests(settings))


def refuse_queues(settings: Settings, queues: Sequence[str]) -> str | None:
    """Why a worker must not consume these queues, or None."""
    known = {key_queue(key.name) for key in settings.keys}
    for name in queues:
        if name.startswith("backlog."):
            return (
                f"{name} is not for workers: from a backlog queue tasks are released by the dispatcher alone"
            )
        if name == "celery":
            return _nothing_to_consume(settings)
        if name.startswith(KEY) and name not in known:
            return f"{name}: there is no [[key]] of that name"
    return None


def _nothing_to_consume(settings: Settings) -> str:
    """Why Celery fell back on its default queue."""
    if not settings.keys:
        return "no [[key]] is configured, so there is no queue to consume"
    if not settings.open_keys:
        return "every [[upstream]] is bound to its region: start it with --region"
    return "celery is no queue here"


def _claim_in_order(conn: Connection, wishes: Sequence[Claim]) -> list[Claimed | None]:
    """One answer for each wish; of two for one row the first has it."""
    found = claim(conn, wishes)
    answers = ((wish, found.get(wish.permit.task_id)) for wish in wishes)
    return [got if got is not None and got.permit is wish.permit else None for wish, got in answers]


class FollowKeys:
    """One for a worker process that consumes key queues."""

    def __init__(
        self, parts: Container, process: WorkerProcess, queues: Collection[str], regions: Collection[str] = ()
    ) -> None:
        """`regions`: those that it was started for."""
        self._parts = parts
        self._process = process
        self._queues = tuple(name for name in queues if name.startswith(KEY))
        self._followed = followed(parts.settings, self._queues, regions)
        self.consumer: Any = None  # Celery's, once it is there

    def take(self, settings: Settings) -> None:
        """Another configuration. Raises ConfigError; then everything stays as it was.

        1. What is gone is consumed no more. 2. Calls are made by the new one. 3. What has come is consumed: from the
        next report on the dispatcher releases to it.
        """
        wanted = wanted_queues(settings, self._queues, self._followed)
        if not wanted:
            raise ConfigError(
                str(settings.path), None, "no key of this worker is left", "stop the worker instead"
            )
        self._process.renew(self._parts.renewed(settings), wanted)
        for name in set(self._queues) - set(wanted):
            self.consumer.call_soon(self.consumer.cancel_task_queue, name)
        for name in set(wanted) - set(self._queues):
            self.consumer.call_soon(self.consumer.add_task_queue, name, exchange="penstock", routing_key=name)
        self._queues = wanted


Followed = Callable[[Settings], tuple[str, ...]]  # the queues that a configuration means for a worker


def followed(settings: Settings, queues: Sequence[str], regions: Collection[str]) -> Followed | None:
    """What a worker follows that began with these queues; None: it was told them by name, and keeps to them."""

    def of_regions(settings: Settings) -> tuple[str, ...]:
        return tuple(key_queue(name) for name in keys_in(settings, regions))

    kinds: tuple[Followed, ...] = (of_regions, all_queues) if regions else (all_queues,)
    return next((kind for kind in kinds if set(kind(settings)) == set(queues)), None)


def all_queues(settings: Settings) -> tuple[str, ...]:
    """The queues of all keys that a worker without a region may use."""
    return tuple(key_queue(name) for name in settings.open_keys)


def wanted_queues(settings: Settings, now: Sequence[str], followed: Followed | None) -> tuple[str, ...]:
    """What a worker is to consume."""
    if followed is not None:
        return followed(settings)
    known = {key_queue(key.name) for key in settings.keys}
    return tuple(name for name in now if name in known)
