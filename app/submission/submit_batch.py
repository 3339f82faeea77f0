"""Take a batch in: all of it or nothing, of any length, with little of it in memory.

An intake belongs to the request's thread; `BatchIntake` stores chunks in a second one. Nothing here is shared between
requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from app.pacing.domain.throughput import Demand, seconds_for
from app.pacing.domain.tokens import AnswerLimits
from app.pacing.ports import Explain, NoExplanation
from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound, PenstockError
from app.platform.ports import Clock, NoTracer, Tracer
from app.settings.domain.routing import Topology
from app.submission.admit import Admission, Ceiling
from app.submission.batch_intake import CHUNK_ROWS, BatchChecks, BatchIntake
from app.submission.check_request import (
    Place,
    SubmissionRules,
    as_json,
    check_callback,
    check_model,
    check_policy,
    draft_task,
)
from app.submission.domain.request import (
    KEPT_SECONDS,
    BatchRequest,
    IdempotencyKey,
    TaskRequest,
    check_repeat,
)
from app.tasks.domain.rows import BatchRow
from app.tasks.domain.task import new_id
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store.batches import get_batch, recent_answers, task_ids
from app.tasks.store.submissions import NewBatch, discard_intake, finish_intake, insert_batch, remember_key

SHOWN_IDS = 1_000  # of its tasks, in the answer
INTAKE_SECONDS = 3600.0  # how long one batch may take to come in; an older intake is taken for dead


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """What exists after a submission."""

    row: BatchRow
    task_ids: list[str]  # the first 1,000, in the order of the requests
    repeated: bool  # the batch existed already


class SubmitBatch:
    """The use case."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        rules: SubmissionRules,
        clock: Clock,
        admission: Admission | None = None,
        explain: Explain | None = None,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or NoTracer()
        self._explain = explain or NoExplanation()
        self._meter = meter or NoMeter()
        self._admission = admission
        self._database = database
        self._publisher = publisher
        self._rules = rules
        self._clock = clock

    @property
    def default_model(self) -> str | None:
        """The model of requests that name none, here and elsewhere."""
        return self._rules.default_model

    def submit(
        self,
        client_id: str,
        options: BatchRequest,
        requests: Iterable[TaskRequest],
        repeat: Callable[[], IdempotencyKey | None] = lambda: None,
    ) -> SubmittedBatch:
        """Accept a batch.

        1. Check what holds for all of it.
        2. Check its requests as they come, and store every full chunk, held.
        3. In one transaction: the last chunk, the idempotency key, the release. From here on the batch exists.
        4. Wake the feeder. Whatever fails before the end of 3 deletes what was stored.

        `repeat` is called once all requests have been read, since a fingerprint covers all of them. Raises Invalid,
        what admission refuses, DatabaseUnreachable, and whatever `requests` raises.
        """
        if options.model is not None:
            check_model(options.model, self._rules)
        check_policy(options.retry, self._rules)
        check_callback(options.callback_url, self._rules)
        with self._tracer.span("submit", client=client_id) as span:
            batch = _new_batch(client_id, options, self._clock.now())
            intake = self._intake(batch, options, span.traceparent)
            submitted = self._take_in(batch, intake, requests, repeat)
            span.set(batch=submitted.row.id, tasks=submitted.row.total, repeated=submitted.repeated)
        return submitted

    def _intake(self, batch: NewBatch, options: BatchRequest, trace: str | None) -> BatchIntake:
        def begin(conn: Connection) -> None:
            if not intake.stored:
                insert_batch(conn, batch)

        intake = BatchIntake(
            self._database,
            self._rules,
            self._admission,
            client_id=batch.client_id,
            first=Place(batch.id, 0, options, batch.expires_at),
            now=batch.created_at,
            begin=begin,
            trace=trace,
            # A batch size sets a pace of its own, which is not known yet.
            explain=self._explain if options.batch_size is None else None,
        )
        return intake

    def _take_in(
        self,
        batch: NewBatch,
        intake: BatchIntake,
        requests: Iterable[TaskRequest],
        repeat: Callable[[], IdempotencyKey | None],
    ) -> SubmittedBatch:
        try:
            self._read(intake, requests)
            submitted = self._finish(batch, intake, repeat())
        except BaseException:
            self._discard(batch, intake)
            raise
        if submitted.repeated:
            self._discard(batch, intake)
        else:
            intake.count(self._meter, "batch")
            self._publisher.wake()
        return submitted

    def _read(self, intake: BatchIntake, requests: Iterable[TaskRequest]) -> None:
        until = self._clock.monotonic() + INTAKE_SECONDS
        for request in requests:
            intake.add(request)
            if intake.store_full_chunk() and self._clock.monotonic() > until:
                raise Invalid(
                    "the batch took longer than an hour to come in", code="request_timeout", status=408
                )
        intake.settle()
        if not intake.total:
            raise Invalid("requests: at least one is required", param="requests", code="missing_field")

    def _finish(self, batch: NewBatch, intake: BatchIntake, repeat: IdempotencyKey | None) -> SubmittedBatch:
        """Release it, or find the batch that its key stands for."""
        finished = self._database.write(lambda conn: self._release(conn, batch, intake, repeat))
        if isinstance(finished, SubmittedBatch):
            return finished
        fingerprint, batch_id = finished
        if repeat is not None:
            check_repeat(repeat, fingerprint)
        return self._database.read(lambda conn: _submitted(conn, batch_id, repeated=True))

    def _release(
        self, conn: Connection, batch: NewBatch, intake: BatchIntake, repeat: IdempotencyKey | None
    ) -> SubmittedBatch | tuple[str, str]:
        """The batch as it is now, or the fingerprint and the object recorded under its key."""
        if repeat is not None:
            until = batch.created_at + KEPT_SECONDS
            fingerprint, recorded = remember_key(
                conn, batch.client_id, repeat.key, repeat.fingerprint, batch.id, batch.created_at, until
            )
            if recorded != batch.id:
                return fingerprint, recorded
        intake.insert_rest(conn, batch.created_at)
        finish_intake(conn, batch.id, intake.total, self._clock.now())
        return _submitted(conn, batch.id, repeated=False)

    def _discard(self, batch: NewBatch, intake: BatchIntake) -> None:
        """Delete what was stored of a batch that was not released. What cannot be deleted now is cleaned up later."""
        with suppress(Exception):  # the failure that matters has been raised already
            intake.settle()
        if not intake.stored:
            return
        with suppress(PenstockError):
            while self._database.write(lambda conn: discard_intake(conn, batch.id, CHUNK_ROWS)):
                pass


def _new_batch(client_id: str, options: BatchRequest, now: float) -> NewBatch:
    return NewBatch(
        id=new_id("batch", now),
        client_id=client_id,
        created_at=now,
        expires_at=now + options.expires_in,
        batch_size=options.batch_size,
        callback_url=options.callback_url,
        metadata=as_json(options.metadata, "metadata"),
    )


def _submitted(conn: Connection, batch_id: str, *, repeated: bool) -> SubmittedBatch:
    row = get_batch(conn, None, batch_id)
    if row is None:
        raise NotFound(
            "the key stands for a batch that was deleted", param="Idempotency-Key", code="batch_not_found"
        )
    return SubmittedBatch(row, task_ids(conn, batch_id, SHOWN_IDS), repeated)


@dataclass(frozen=True, slots=True)
class Likely:
    """What a batch would come to if its answers were like the client's latest ones. None: unknown."""

    answers: int  # those that it is judged by
    tokens: int
    cost_picos: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch would take. Money is the most it can cost, in pico-units; None: unknown."""

    requests: int
    tokens: int
    cost_picos: int | None
    currency: str | None
    seconds: float | None
    finished_at: float | None  # Unix seconds, if it began now
    models: dict[str, Demand]
    likely: Likely | None = None  # None: too few answers are known
    at_pace: bool = False  # whether `seconds` is at the present pace, behind what already waits


_FEWEST_ANSWERS = 3  # by which others are judged


class EstimateBatch:
    """The use case of a dry run: nothing is stored."""

    def __init__(
        self,
        rules: SubmissionRules,
        topology: Topology,
        ceiling: Ceiling,
        clock: Clock,
        database: Database | None = None,
        explain: Explain | None = None,
    ) -> None:
        """Without `database` nothing is known of earlier answers."""
        self._rules = rules
        self._topology = topology
        self._ceiling = ceiling
        self._clock = clock
        self._database = database
        self._explain = explain or NoExplanation()

    def estimate(self, client_id: str, options: BatchRequest, requests: Iterable[TaskRequest]) -> Estimate:
        """Check every request as a submission would, and add up. Raises Invalid, DatabaseUnreachable."""
        now, checks = self._clock.now(), BatchChecks()
        models: dict[str, Demand] = {}
        costs: list[tuple[int, str] | None] = []
        answers: dict[str, AnswerLimits] = {}
        queues: Counter[tuple[str, str, int]] = Counter()
        for request in requests:
            place = Place("", checks.count, options, now + options.expires_in)
            checks.check(request.custom_id, place.custom_id_param)
            row = draft_task(request, client_id, self._rules, now, place)
            models[row.model] = models.get(row.model, Demand()) + Demand(1, row.estimate)
            costs.append(self._ceiling(row.model, row.estimate, now))
            answers.setdefault(row.model, AnswerLimits()).add(request.parameters, row.estimate)
            queues[row.model, row.queue, row.step] += 1
        found = self._estimate(models, costs, now)
        return replace(
            found, likely=self._likely(client_id, answers), **self._duration(queues, options, now, found)
        )

    def _estimate(
        self, models: dict[str, Demand], costs: list[tuple[int, str] | None], now: float
    ) -> Estimate:
        known = [cost for cost in costs if cost is not None]
        currencies = {currency for _, currency in known}
        one_sum = len(known) == len(costs) and len(currencies) == 1
        seconds = seconds_for(self._topology, models)
        return Estimate(
            requests=sum(demand.requests for demand in models.values()),
            tokens=sum(demand.tokens for demand in models.values()),
            cost_picos=sum(picos for picos, _ in known) if one_sum else None,
            currency=currencies.pop() if one_sum else None,
            seconds=seconds,
            finished_at=None if seconds is None else now + seconds,
            models=models,
        )

    def _likely(self, client_id: str, limits: dict[str, AnswerLimits]) -> Likely | None:
        if self._database is None:
            return None
        judged = [
            (self._database.read(partial(recent_answers, client_id=client_id, model=model)), one)
            for model, one in limits.items()
        ]
        if not judged or min(recent.answers for recent, _ in judged) < _FEWEST_ANSWERS:
            return None
        tokens = [one.tokens(recent.completion_tokens / recent.answers) for recent, one in judged]
        currencies = {recent.currency for recent, _ in judged}
        costs = [
            round((recent.cost_picos or 0) * count / max(1, recent.prompt_tokens + recent.completion_tokens))
            for (recent, _), count in zip(judged, tokens, strict=True)
        ]
        currency = currencies.pop() if len(currencies) == 1 else None
        return Likely(
            min(recent.answers for recent, _ in judged),
            round(sum(tokens)),
            None if currency is None else sum(costs),
            currency,
        )

    def _duration(
        self, queues: Counter[tuple[str, str, int]], options: BatchRequest, now: float, found: Estimate
    ) -> dict[str, Any]:
        """At the present pace behind what waits, never less than at the configured limits; {}: no pace is known."""
        if options.batch_size is not None or options.off_peak or options.run_at is not None:
            return {}
        ends = []
        for (model, queue, step), count in queues.items():
            forecast = self._explain.foresee(model, queue, step, now)
            seconds = None if forecast is None else forecast.starts_in(count)
            if seconds is None:
                return {}
            ends.append(seconds)
        seconds = max(ends, default=0.0)
        if found.seconds is not None:
            seconds = max(seconds, found.seconds)
        return {"seconds": seconds, "finished_at": now + seconds, "at_pace": True}
