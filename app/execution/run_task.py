"""Runs one released task: redeem the permit, claim the row, call, classify, record, release the permit.

Each step returns the value that the next one needs, so none can be skipped.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import structlog

from app.billing.domain.pricing import PriceBook
from app.caching.domain.caching import AnswerCache, CachedAnswer, NoAnswers, may_keep
from app.execution.domain.retry import Policies, RetryContext, decide
from app.execution.in_flight import CallsInFlight, ReleasePermits, WorkerReadiness
from app.pacing.domain.brake import brakes
from app.pacing.domain.why import key_missing
from app.pacing.store.permits import RedisPermits
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.json_text import Parse
from app.platform.encryption import Unsealable
from app.platform.group_commit import GroupCommit
from app.platform.ports import Clock, NoTracer, Tracer
from app.tasks.domain.attempt import (
    AttemptEnd,
    Brake,
    Claim,
    Claimed,
    Finish,
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
from app.upstreams.domain.chat_stream import Piece
from app.upstreams.domain.classify import CallVerdict, classify
from app.upstreams.domain.refusals import about_a_key
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from app.upstreams.domain.request_parameters import ParameterFix, known_fixes, remembered_fixes
from app.upstreams.read_answer import json_check

log = structlog.get_logger("penstock.worker")

SEND_WITHIN = 2.0  # seconds from asking for the permit
KEY_MISSING_SECONDS = 60.0  # until a task whose content key was missing is tried again
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between tries to record
_MAX_REFUSALS = 3  # by a database that answers; then the ending is recorded without its content
_UNUSED = CallVerdict(Outcome.RETURNED, called=False, sent=False)


class Upstream(Protocol):
    """Makes the call."""

    def call(
        self, claimed: Claimed, may_send: Callable[[], bool], pass_on: Callable[[bytes], None] | None = None
    ) -> Reply | TransportError:
        """Return the reply or the error. Ask `may_send` last before sending; hand chunks of a stream to `pass_on`."""


class Fixes(Protocol):
    """What upstreams needed in requests before."""

    def of(self, upstream: str, model: str) -> Sequence[ParameterFix]:
        """The fixes for requests to this model."""

    def learn(self, upstream: str, model: str, fixes: Sequence[ParameterFix]) -> None:
        """Remember fixes that worked. Never raises."""


class NoFixes:
    """Remembers nothing."""

    def of(self, upstream: str, model: str) -> Sequence[ParameterFix]:  # noqa: ARG002
        """None."""
        return ()

    def learn(self, upstream: str, model: str, fixes: Sequence[ParameterFix]) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What became of a message, in words that are safe to show anywhere.

    `dropped`: no call was made, and the task is somewhere else. The other kinds are those of Flower.
    """

    kind: Literal["succeeded", "failed", "again", "cancelled", "dropped"]
    reason: str


@dataclass(frozen=True, slots=True)
class _FinishedCall:
    claimed: Claimed
    verdict: CallVerdict
    brakes: tuple[Brake, ...]
    seconds: float
    shown: bool  # part of the answer has reached the client


@dataclass(slots=True)
class RunTask:
    """The use case. All threads of a worker process share one; a reload replaces `policies` and `answers`."""

    worker: str  # id of this worker instance
    permits: RedisPermits
    claims: GroupCommit[Claim, Claimed | None]
    upstream: Upstream
    endings: GroupCommit[AttemptEnd, Recorded]
    releases: ReleasePermits
    in_flight: CallsInFlight
    readiness: WorkerReadiness
    policies: Policies
    clock: Clock
    parse: Parse
    chance: Callable[[], float] = random.random
    streams: StreamWriter = field(default_factory=NoStreams)
    answers: KeepAnswers | None = None
    fixes: Fixes = field(default_factory=NoFixes)
    meter: Meter = field(default_factory=NoMeter)
    tracer: Tracer = field(default_factory=NoTracer)
    notify_callbacks: Callable[[Sequence[str]], object] = lambda _callbacks: None
    notify_waiters: Callable[[Sequence[str]], object] = lambda _tasks: (
        None
    )  # of tasks that ended with this one
    postpone: Callable[[str, float, str], object] = lambda _task, _until, _reason: None

    def run(self, task_id: str, trace: str = "") -> RunOutcome:
        """Run a released task. `trace`: the submission's traceparent, if there is one.

        1. Redeem its permit. If that is refused, drop the message: the leader re-queues the task.
        2. Claim its row. If that fails, release the permit unused.
        3. Call, within 2 s of asking for the permit and only while no brake forbids it. 4. Classify and decide.
        5. Record, however long the database takes. 6. Release the permit.
        """
        with (
            self.in_flight.message(),
            structlog.contextvars.bound_contextvars(task_id=task_id),
            self.tracer.span("run", trace or None, task=task_id) as span,
        ):
            outcome = self._redeem(task_id)
            span.set(came_to=outcome.kind, reason=outcome.reason)
            return outcome

    def _redeem(self, task_id: str) -> RunOutcome:
        if self.readiness.draining.is_set():
            return RunOutcome("dropped", "stopping")
        send_by = self.clock.monotonic() + SEND_WITHIN
        permit = self.permits.redeem(task_id, self.worker)
        if isinstance(permit, RefusedPermit):
            return RunOutcome("dropped", permit.reason)
        with self.in_flight.call(task_id, permit.release):
            claimed = self._claim(permit)
            if claimed is None:
                self._release(permit, _UNUSED)
                return RunOutcome("dropped", "not claimed")
            owner = {"client_id": claimed.client_id}
            if claimed.batch_id:
                owner["batch_id"] = claimed.batch_id
            with structlog.contextvars.bound_contextvars(**owner):
                return self._perform(claimed, send_by)

    def _claim(self, permit: Permit) -> Claimed | None:
        try:
            return self.claims.submit(Claim(permit, self.worker, self.clock.now()))
        except DatabaseUnreachable:
            self.readiness.database_answers = False
            log.warning("database unreachable, permit released")
        except Unsealable as error:
            self._postpone(permit.task_id, error)
        except Exception as error:  # noqa: BLE001  # the permit must be released, whatever the error
            log.error("claim failed", **_error_facts(error))
        return None

    def _postpone(self, task_id: str, error: Unsealable) -> None:
        """Make a task that cannot be decrypted wait, or it would be released again at once, forever."""
        log.error("content_key_missing", key=error.key_id, reason=str(error))
        try:
            self.postpone(task_id, self.clock.now() + KEY_MISSING_SECONDS, key_missing(error.key_id))
        except DatabaseUnreachable:
            log.warning("database unreachable, permit released")

    def _perform(self, claimed: Claimed, send_by: float) -> RunOutcome:
        stream = _PassedOn(self.streams, claimed.permit)
        call = self._call(self._fixed(claimed), send_by, stream)
        self._learn(call)
        with self.tracer.span("record"):
            ending, recorded = self._record(self._decide(call))
        if claimed.stream:
            stream.end()
        ended = recorded is not None and (not recorded.held or (recorded.status or ending.status).ended)
        self._release(claimed.permit, call.verdict, call.brakes, seconds=call.seconds, ended=ended)
        if recorded is not None:
            self._report(ending, recorded, call.seconds)
        return _outcome(ending, recorded)

    def _known(self, permit: Permit) -> tuple[ParameterFix, ...]:
        profile = self.policies.profile_of(permit.upstream)
        return (*profile.fixes, *self.fixes.of(permit.upstream, permit.upstream_model))

    def _fixed(self, claimed: Claimed) -> Claimed:
        """With the fixes that this upstream is known to need."""
        notes = known_fixes(claimed.request, self._known(claimed.permit), streamed=claimed.stream)
        return replace(claimed, avoid=tuple(dict.fromkeys((*claimed.avoid, *notes)))) if notes else claimed

    def _learn(self, call: _FinishedCall) -> None:
        permit = call.claimed.permit
        if call.verdict.outcome is Outcome.SUCCEEDED:
            known = self._known(permit)
            new = [fix for fix in remembered_fixes(call.claimed.avoid) if fix.lasts and fix not in known]
            if new:
                self.fixes.learn(permit.upstream, permit.upstream_model, new)

    def _call(self, claimed: Claimed, send_by: float, stream: _PassedOn) -> _FinishedCall:
        permit = claimed.permit
        gate = _Gate(self.permits, permit, send_by, self.clock)
        begun = self.clock.monotonic()
        with self.tracer.span(
            "call", upstream=permit.upstream, key=permit.key, model=permit.upstream_model
        ) as span:
            reply = self._ask_upstream(claimed, gate.may_send, stream)
            seconds = self.clock.monotonic() - begun - gate.waited
            verdict = self._classify(claimed, reply)
            span.set(
                outcome=str(verdict.outcome),
                status=verdict.status_code,
                upstream_request=verdict.upstream_request_id,
            )
        braked = brakes(permit, verdict, self.chance(), self.policies.rests)
        return _FinishedCall(claimed, verdict, braked, seconds, stream.begun)

    def _ask_upstream(
        self, claimed: Claimed, may_send: Callable[[], bool], stream: _PassedOn
    ) -> Reply | TransportError:
        try:
            bounded = replace(claimed, timeout=self.policies.timeout_of(claimed))
            return self.upstream.call(bounded, may_send, stream.send if claimed.stream else None)
        except Exception as error:  # noqa: BLE001  # the row is claimed and must be ended
            log.error("call failed with an internal error", **_error_facts(error))
            return TransportError(TransportErrorKind.BROKEN, "The call could not be made.")

    def _classify(self, claimed: Claimed, reply: Reply | TransportError) -> CallVerdict:
        model, profile = claimed.permit.upstream_model, self.policies.profile_of(claimed.permit.upstream)
        try:
            fits, now = json_check(claimed.request), self.clock.now()
            return classify(reply, model=model, now=now, parse=self.parse, profile=profile, fits=fits)
        except Exception as error:  # noqa: BLE001  # the row is claimed and must be ended
            log.error("answer not classified", **_error_facts(error))
            return CallVerdict(Outcome.MALFORMED, "The upstream's answer could not be read.")

    def _decide(self, call: _FinishedCall) -> AttemptEnd:
        """How the attempt ends, with its cost; an answer worth caching is cached."""
        claimed, policies = call.claimed, self.policies
        context = RetryContext(
            policies.retry_of(claimed),
            policies.keys_of(claimed),
            self.clock.now(),
            self.chance(),
            call.shown,
            policies.falls_of(claimed),
        )
        ending = decide(claimed, call.verdict, context)
        if self.answers is not None:
            ending = self.answers.priced(ending)
            self.answers.keep(ending)
        return ending

    def _record(self, ending: AttemptEnd) -> tuple[AttemptEnd, Recorded | None]:
        """Retry until it is recorded. None: the process gave up first, and the leader recovers the row."""
        wait, refusals = _FIRST_WAIT, 0
        while True:
            try:
                return ending, self.endings.submit(ending)
            except DatabaseUnreachable:
                self.readiness.database_answers = False
            except Exception as error:  # noqa: BLE001  # a result is held until it is recorded
                log.error("database refused an ending", outcome=ending.outcome, **_error_facts(error))
                refusals += 1
                if refusals >= _MAX_REFUSALS:
                    ending = _without_content(ending)
            if self.readiness.giving_up.wait(wait):
                log.error("ending left unrecorded", outcome=ending.outcome)
                return ending, None
            wait = min(_LONGEST_WAIT, wait * 2)

    def _release(
        self,
        permit: Permit,
        verdict: CallVerdict,
        braked: tuple[Brake, ...] = (),
        *,
        seconds: float = 0.0,
        ended: bool = False,
    ) -> None:
        self.releases.add(
            Settlement(
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
        )

    def _report(self, ending: AttemptEnd, recorded: Recorded, seconds: float) -> None:
        """Wake the callback senders and those who wait; count the call and the time added to it since its release."""
        if recorded.callbacks:
            self.notify_callbacks(recorded.callbacks)
        if recorded.followers:
            self.notify_waiters(recorded.followers)
        if ending.called and recorded.held:
            since = self.clock.now() - ending.claimed.permit.released_at
            self.meter.called(ending, max(0.0, since - seconds))


def _outcome(ending: AttemptEnd, recorded: Recorded | None) -> RunOutcome:
    """For Flower: our own words only, as an upstream's may quote a prompt."""
    if recorded is None or not recorded.held:
        return RunOutcome("dropped", "not recorded" if recorded is None else "taken over")
    match recorded.status or ending.status:
        case Status.SUCCEEDED:
            return RunOutcome("succeeded", str(ending.outcome))
        case Status.QUEUED:
            return RunOutcome("again", str(ending.outcome))
        case Status.CANCELLED:
            return RunOutcome("cancelled", str(ending.outcome))
        case _:
            return RunOutcome("failed", ending.failure.code if ending.failure else str(ending.outcome))


def _without_content(ending: AttemptEnd) -> AttemptEnd:
    """The ending without any content that could keep it from being recorded."""
    failure = TaskFailure("server_error", "not_recordable", "The answer could not be stored.")
    plain = replace(ending, result=None, finish=None, error_message=None, upstream_request_id=None)
    if plain.status is Status.QUEUED:
        return plain
    return replace(plain, status=Status.FAILED, outcome=Outcome.MALFORMED, failure=failure)


def _error_facts(error: BaseException) -> dict[str, str]:
    """An error's type and place. Never its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    reason = {"reason": str(error)} if isinstance(error, Unsealable) else {}  # its text holds no content
    return {"error": type(error).__name__, "place": place, **reason}


@dataclass(slots=True)
class _Gate:
    """Asks once more whether a call may be sent, on an open connection: what it is late by then is counted."""

    permits: RedisPermits
    permit: Permit
    send_by: float
    clock: Clock
    waited: float = 0.0  # seconds

    def may_send(self) -> bool:
        """Whether it may be sent now."""
        asked = self.clock.monotonic()
        try:
            return self.permits.may_send(self.permit, self.send_by)
        finally:
            self.waited += self.clock.monotonic() - asked


class _PassedOn:
    """The streamed answer of one run, on its way to the client: numbered chunks, then their count.

    Only the thread that makes the call uses it.
    """

    def __init__(self, writer: StreamWriter, permit: Permit) -> None:
        self._writer = writer
        self._permit = permit
        self._count = 0

    @property
    def begun(self) -> bool:
        """Whether the client may have seen a part: then the answer cannot be started anew."""
        return self._count > 0

    def send(self, data: bytes) -> None:
        """Pass the next chunk on."""
        self._write(data)
        self._count += 1

    def end(self) -> None:
        """Announce that the run is over and recorded, however it ended."""
        self._write(None)

    def _write(self, data: bytes | None) -> None:
        self._writer.send(self._permit.task_id, Piece(self._permit.release, self._count, data))


@dataclass(frozen=True, slots=True)
class KeepAnswers:
    """Prices calls and caches their answers. Immutable, so all threads of a process share one."""

    parse: Parse
    prices: PriceBook = field(default_factory=PriceBook)
    cache: AnswerCache = field(default_factory=NoAnswers)
    max_bytes: int = 1024 * 1024

    def priced(self, ending: AttemptEnd) -> AttemptEnd:
        """The ending with its cost, at the price in force when the call began; an unknown price stays None."""
        if not ending.called:
            return ending
        permit, sent_at = ending.claimed.permit, ending.claimed.started_at
        cost = self.prices.cost(permit.upstream, permit.upstream_model, ending.usage, sent_at)
        return replace(ending, cost=cost)

    def keep(self, ending: AttemptEnd) -> None:
        """Cache a complete answer if its task asks for it. Never raises."""
        try:
            self._keep(ending)
        except Exception as error:  # noqa: BLE001  # an answer that is not cached is recorded all the same
            log.warning("answer not cached", error=type(error).__name__)

    def _keep(self, ending: AttemptEnd) -> None:
        claimed, result = ending.claimed, ending.result
        if ending.status is not Status.SUCCEEDED or result is None:
            return
        if claimed.cache_key is None or claimed.cache_seconds is None:
            return
        encoded = result.encode()
        complete = ending.finish is Finish.COMPLETE and may_keep(
            self.parse(encoded),
            simulated=ending.simulated,
            repaired=any(not fix.keeps_meaning for fix in remembered_fixes(claimed.avoid)),
            size=len(encoded),
            most=self.max_bytes,
        )
        if complete:
            answer = CachedAnswer(result, ending.usage, ending.cost)
            self.cache.keep(claimed.cache_key, answer, claimed.cache_seconds)
