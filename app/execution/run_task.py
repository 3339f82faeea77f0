"""Runs one released task: redeem, claim, call, classify, decide, record, settle.

Each stage gives the value that the next one needs, so that none can be skipped.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import structlog

from app.billing.domain.pricing import PriceBook
from app.caching.domain.answer import AnswerCache, CachedAnswer, NoAnswers
from app.caching.domain.caching import may_keep
from app.execution.domain.retry import RetryContext, RetryPolicy, decide
from app.execution.in_flight import CallsInFlight, WorkerReadiness
from app.execution.release_permits import ReleasePermits
from app.pacing.domain.brake import DEFAULT_RESTS, BrakeDurations, brakes
from app.pacing.domain.why import key_missing
from app.pacing.ports import Permits
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.json_text import Parse
from app.platform.encryption import Unsealable
from app.platform.ports import Clock, NoTracer, Tracer
from app.tasks.domain.attempt import (
    AttemptEnd,
    Brake,
    Claim,
    Claimed,
    Outcome,
    Permit,
    Recorded,
    RefusedPermit,
    Settlement,
    TaskFailure,
)
from app.tasks.domain.task import Status
from app.tasks.ports import Meter, NoMeter
from app.upstreams.answer_streams import NoStreams, StreamWriter
from app.upstreams.domain import request_parameters
from app.upstreams.domain.chat_stream import Piece
from app.upstreams.domain.classify import CallVerdict, classify
from app.upstreams.domain.refusals import about_a_key
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind


class PassOnStream:
    """One run of one task."""

    def __init__(self, writer: StreamWriter, task_id: str, release: int) -> None:
        self._writer = writer
        self._task_id = task_id
        self._release = release
        self._count = 0

    @property
    def begun(self) -> bool:
        """Whether anything was passed on: from then on the answer cannot begin anew."""
        return self._count > 0

    def send(self, data: bytes) -> None:
        """Pass the next chunk on."""
        number, self._count = self._count, self._count + 1
        self._writer.send(self._task_id, Piece(self._release, number, data))

    def end(self) -> None:
        """Say that the run is over and recorded, whatever came of it."""
        self._writer.send(self._task_id, Piece(self._release, self._count))


cache_log = structlog.get_logger("penstock.cache")


@dataclass(frozen=True, slots=True)
class KeepAnswers:
    """The use case. May be used by many threads."""

    parse: Parse
    prices: PriceBook = field(default_factory=PriceBook)
    cache: AnswerCache = field(default_factory=NoAnswers)
    most_bytes: int = 1024 * 1024

    def priced(self, ending: AttemptEnd) -> AttemptEnd:
        """The ending with its cost, at the price in force when the call was sent; None stays unknown."""
        permit = ending.claimed.permit
        if not ending.called:
            return ending
        sent_at = ending.claimed.started_at
        cost = self.prices.cost(permit.upstream, permit.upstream_model, ending.usage, sent_at)
        return replace(ending, cost=cost)

    def keep(self, ending: AttemptEnd) -> None:
        """Keep the answer where its task asks for it and it is a whole one. Never raises."""
        try:
            self._keep(ending)
        except Exception as error:  # noqa: BLE001  # an answer that is not kept is recorded all the same
            cache_log.warning("an answer was not kept", error=type(error).__name__)

    def _keep(self, ending: AttemptEnd) -> None:
        claimed, result = ending.claimed, ending.result
        if ending.status is not Status.SUCCEEDED or result is None:
            return
        if claimed.cache_key is None or claimed.cache_seconds is None:
            return
        encoded = result.encode()
        whole = may_keep(
            self.parse(encoded),
            simulated=ending.simulated,
            repaired=bool(request_parameters.remembered_fixes(claimed.avoid)),
            size=len(encoded),
            most=self.most_bytes,
        )
        if whole:
            answer = CachedAnswer(result, ending.usage, ending.cost)
            self.cache.keep(claimed.cache_key, answer, claimed.cache_seconds)


log = structlog.get_logger("penstock.worker")

KEY_MISSING_SECONDS = 60.0  # until a task that could not be read is tried again, by whoever has the key then
SEND_WITHIN = 2.0  # seconds from asking for the permit
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between tries to record
_TOO_LATE = TransportError(TransportErrorKind.NOT_SENT, "Its turn to be sent did not come in time.")
_MOST_REFUSALS = 3  # of an ending by a database that answers; then it is recorded without its content


class Upstream(Protocol):
    """What makes the call."""

    def call(self, claimed: Claimed, send_by: float) -> Reply | TransportError:
        """Call and give back what came of it; nothing is sent after `send_by` on the monotonic clock."""

    def stream(
        self, claimed: Claimed, send_by: float, pass_on: Callable[[bytes], None]
    ) -> Reply | TransportError:
        """The same, with each chunk of the answer given to `pass_on` as it comes."""


class Claims(Protocol):
    """Claims that are ready at the same time, in one transaction."""

    def submit(self, item: Claim) -> Claimed | None:
        """The row, if it can be had. Raises DatabaseUnreachable."""


class Endings(Protocol):
    """Endings that are ready at the same time, in one transaction."""

    def submit(self, item: AttemptEnd) -> Recorded:
        """What came of it. Raises DatabaseUnreachable."""


@dataclass(frozen=True, slots=True)
class ModelRetryPolicy:
    """How tasks of a model are retried, and by which keys it can be served at all."""

    retry: str
    keys: frozenset[str]
    falls: frozenset[str] = frozenset()  # what tiers are named for


@dataclass(frozen=True, slots=True)
class Policies:
    """Retry policies and models by name. `retries` holds "default"."""

    retries: Mapping[str, RetryPolicy]
    models: Mapping[str, ModelRetryPolicy]
    rests: BrakeDurations = DEFAULT_RESTS

    def retry_of(self, claimed: Claimed) -> RetryPolicy:
        """The policy that the request names, else its model's; what is not configured any more is the default."""
        model = self.models.get(claimed.model)
        name = claimed.retry or (model.retry if model else "default")
        return self.retries.get(name) or self.retries["default"]

    def keys_of(self, claimed: Claimed) -> frozenset[str]:
        """The keys that may serve the task's model."""
        model = self.models.get(claimed.model)
        return model.keys if model else frozenset({claimed.permit.key})

    def falls_of(self, claimed: Claimed) -> frozenset[str]:
        """What tiers of the task's model are named for."""
        model = self.models.get(claimed.model)
        return model.falls if model else frozenset()


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a message came to, in words that may be shown anywhere.

    `dropped`: it led to no call, the task is somewhere else. Else as Flower shows it.
    """

    kind: Literal["succeeded", "failed", "again", "cancelled", "dropped"]
    reason: str


@dataclass(frozen=True, slots=True)
class _Called:
    """A call that is over."""

    claimed: Claimed
    verdict: CallVerdict
    brakes: tuple[Brake, ...]
    seconds: float
    shown: bool = False  # some of its answer was passed on


@dataclass(slots=True)
class RunTask:
    """The use case. May be used by many threads."""

    worker: str  # the incarnation
    permits: Permits
    claims: Claims
    upstream: Upstream
    endings: Endings
    settling: ReleasePermits
    held: CallsInFlight
    state: WorkerReadiness
    policies: Policies
    clock: Clock
    parse: Parse
    chance: Callable[[], float] = field(default=random.random)
    ring: Callable[[Sequence[str]], object] = field(default=lambda _callbacks: None)  # tell who delivers them
    streams: StreamWriter = field(default_factory=NoStreams)
    keeping: KeepAnswers | None = None
    meter: Meter = field(default_factory=NoMeter)
    tracer: Tracer = field(default_factory=NoTracer)
    announce: Callable[[Sequence[str]], object] = field(
        default=lambda _tasks: None
    )  # tell who waits for them
    put_off: Callable[[str, float, str], object] = field(
        default=lambda _task, _until, _code: None
    )  # a task waits until then, with a code that says why

    def run(self, task_id: str, trace: str = "") -> RunOutcome:
        """Run a released task. `trace`: the traceparent of what submitted it, if it came with one.

        1. Redeem its permit; refused, the message is dropped: the leader puts the task back.
        2. Claim its row; if that cannot be had, the permit goes back unused.
        3. Call, within 2 s of asking for the permit and when no limit is in the way. 4. Classify and decide.
        5. Record, however long the database takes. 6. Settle the permit.
        """
        with (
            self.held.message(),
            structlog.contextvars.bound_contextvars(task_id=task_id),
            self.tracer.span("run", trace or None, task=task_id) as span,
        ):
            ran = self._redeem(task_id)
            span.tell(came_to=ran.kind, reason=ran.reason)
            return ran

    def _redeem(self, task_id: str) -> RunOutcome:
        if self.state.draining.is_set():
            return RunOutcome("dropped", "stopping")
        send_by = self.clock.monotonic() + SEND_WITHIN
        permit = self.permits.redeem(task_id, self.worker)
        if isinstance(permit, RefusedPermit):
            return RunOutcome("dropped", permit.reason)
        with self.held.call(task_id, permit.release):
            return self._run(permit, send_by)

    def _run(self, permit: Permit, send_by: float) -> RunOutcome:
        claimed = self._claim(permit)
        if claimed is None:
            self._settle(permit, CallVerdict(Outcome.RETURNED, called=False, sent=False))
            return RunOutcome("dropped", "not claimed")
        whose = {
            "client_id": claimed.client_id,
            **({"batch_id": claimed.batch_id} if claimed.batch_id else {}),
        }
        with structlog.contextvars.bound_contextvars(**whose):
            return self._carry_out(claimed, send_by)

    def _carry_out(self, claimed: Claimed, send_by: float) -> RunOutcome:
        permit = claimed.permit
        passing = PassOnStream(self.streams, permit.task_id, permit.release)
        called = self._call(claimed, send_by, passing)
        decided = self._decide(called)
        if self.keeping is not None:
            decided = self.keeping.priced(decided)
            self.keeping.keep(decided)
        with self.tracer.span("record"):
            ending, recorded = self._record(decided)
        if claimed.stream:
            passing.end()
        over = recorded is not None and (not recorded.held or (recorded.status or ending.status).ended)
        self._settle(permit, called.verdict, called.brakes, seconds=called.seconds, ended=over)
        if recorded is not None:
            self._tell(recorded)
            self._count(ending, recorded, called.seconds)
        return _ran(ending, recorded)

    def _tell(self, recorded: Recorded) -> None:
        """Tell who delivers callbacks, and who waits for tasks that ended with this one."""
        if recorded.callbacks:
            self.ring(recorded.callbacks)
        if recorded.followers:
            self.announce(recorded.followers)

    def _count(self, ending: AttemptEnd, recorded: Recorded, seconds: float) -> None:
        """Count a call that is recorded, and what was added to it since its release."""
        if ending.called and recorded.held:
            since = self.clock.now() - ending.claimed.permit.released_at
            self.meter.called(ending, max(0.0, since - seconds))

    def _claim(self, permit: Permit) -> Claimed | None:
        try:
            return self.claims.submit(Claim(permit, self.worker, self.clock.now()))
        except DatabaseUnreachable:
            self.state.database_answers = False
            log.warning("the database does not answer; the permit goes back")
        except Unsealable as error:
            self._put_off(permit.task_id, error)
        except Exception as error:  # noqa: BLE001  # whatever it was, the permit must go back
            log.error("a claim failed", **_where(error))
        return None

    def _put_off(self, task_id: str, error: Unsealable) -> None:
        """A task that cannot be read waits, or it would be released and given back without end."""
        log.error("content_key_missing", key=error.key_id, reason=str(error))
        until = self.clock.now() + KEY_MISSING_SECONDS
        try:
            self.put_off(task_id, until, key_missing(error.key_id))
        except DatabaseUnreachable:
            log.warning("the database does not answer; the permit goes back")

    def _call(self, claimed: Claimed, send_by: float, passing: PassOnStream) -> _Called:
        permit = claimed.permit
        may_send = self.permits.may_send(permit, send_by)
        begun = self.clock.monotonic()
        with self.tracer.span(
            "call", upstream=permit.upstream, key=permit.key, model=permit.upstream_model
        ) as span:
            back = self._back(claimed, send_by, passing) if may_send else _TOO_LATE
            seconds = self.clock.monotonic() - begun
            verdict = self._classify(claimed, back)
            span.tell(
                outcome=str(verdict.outcome),
                status=verdict.status_code,
                upstream_request=verdict.upstream_request_id,
            )
        braked = brakes(claimed.permit, verdict, self.chance(), self.policies.rests)
        return _Called(claimed, verdict, braked, seconds, passing.begun)

    def _back(self, claimed: Claimed, send_by: float, passing: PassOnStream) -> Reply | TransportError:
        try:
            if claimed.stream:
                return self.upstream.stream(claimed, send_by, passing.send)
            return self.upstream.call(claimed, send_by)
        except Exception as error:  # noqa: BLE001  # the row is ours and must be ended
            log.error("a call met an error of ours", **_where(error))
            return TransportError(TransportErrorKind.BROKEN, "The call could not be made.")

    def _classify(self, claimed: Claimed, back: Reply | TransportError) -> CallVerdict:
        model = claimed.permit.upstream_model
        try:
            return classify(back, model=model, now=self.clock.now(), parse=self.parse)
        except Exception as error:  # noqa: BLE001  # the row is ours and must be ended
            log.error("an answer could not be classified", **_where(error))
            return CallVerdict(Outcome.MALFORMED, "The upstream's answer could not be read.")

    def _decide(self, called: _Called) -> AttemptEnd:
        claimed = called.claimed
        policy, keys = self.policies.retry_of(claimed), self.policies.keys_of(claimed)
        falls = self.policies.falls_of(claimed)
        at = RetryContext(policy, keys, self.clock.now(), self.chance(), called.shown, falls)
        return decide(claimed, called.verdict, at)

    def _record(self, ending: AttemptEnd) -> tuple[AttemptEnd, Recorded | None]:
        """Keep trying until it is recorded; without a record when the process ends before: the leader heals it."""
        wait, refusals = _FIRST_WAIT, 0
        while True:
            try:
                return ending, self.endings.submit(ending)
            except DatabaseUnreachable:
                self.state.database_answers = False
            except Exception as error:  # noqa: BLE001  # a result is held until it is recorded
                log.error("an ending was refused", outcome=ending.outcome, **_where(error))
                refusals += 1
                if refusals >= _MOST_REFUSALS:
                    ending = _without_content(ending)
            if self.state.giving_up.wait(wait):
                log.error("an ending is left unrecorded", outcome=ending.outcome)
                return ending, None
            wait = min(_LONGEST_WAIT, wait * 2)

    def _settle(
        self,
        permit: Permit,
        verdict: CallVerdict,
        braked: tuple[Brake, ...] = (),
        *,
        seconds: float = 0.0,
        ended: bool = False,
    ) -> None:
        settlement = Settlement(
            task_id=permit.task_id,
            release=permit.release,
            outcome=verdict.outcome,
            tokens=verdict.tokens,
            brakes=braked,
            ended=ended,
            called=verdict.called,
            seconds=seconds,
            hints=dict(verdict.hints),
            named=verdict.named,
            asked=verdict.retry_after_seconds,
            usage=verdict.usage,
            status=verdict.status_code,
            words=about_a_key(verdict.outcome, verdict.message),
        )
        self.settling.add(settlement)


def _ran(ending: AttemptEnd, recorded: Recorded | None) -> RunOutcome:
    """What Flower is told: our own words alone, as an upstream's may quote a prompt."""
    if recorded is None or not recorded.held:
        return RunOutcome("dropped", "not recorded" if recorded is None else "taken over")
    status = recorded.status or ending.status
    if status is Status.SUCCEEDED:
        return RunOutcome("succeeded", str(ending.outcome))
    if status is Status.QUEUED:
        return RunOutcome("again", str(ending.outcome))
    if status is Status.CANCELLED:
        return RunOutcome("cancelled", str(ending.outcome))
    return RunOutcome("failed", ending.failure.code if ending.failure else str(ending.outcome))


def _without_content(ending: AttemptEnd) -> AttemptEnd:
    """An ending that no content of the answer can keep from being recorded."""
    failure = TaskFailure("server_error", "not_recordable", "The answer could not be stored.")
    plain = replace(ending, result=None, error_message=None, upstream_request_id=None)
    if plain.status is Status.QUEUED:
        return plain
    return replace(plain, status=Status.FAILED, outcome=Outcome.MALFORMED, failure=failure)


def _where(error: BaseException) -> dict[str, str]:
    """An error's kind and place. Never its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    reason = {"reason": str(error)} if isinstance(error, Unsealable) else {}  # in our words, without content
    return {"error": type(error).__name__, "place": place, **reason}
