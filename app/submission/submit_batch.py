"""Take a batch in: all of it or nothing, of any length, with little of it in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from app.billing.domain.budget import Spent
from app.pacing.ports import Explain, NoExplanation
from app.platform.background_loop import PipelinedWriter
from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound, PenstockError
from app.platform.ports import Clock, NoTracer, Tracer
from app.submission.admit import Admission
from app.submission.check_request import (
    Place,
    SubmissionRules,
    as_json,
    check_callback,
    check_model,
    check_policy,
    draft_task,
)
from app.submission.domain.request import BatchRequest, Order, TaskRequest
from app.submission.domain.request_headers import KEPT_SECONDS, IdempotencyKey, check_repeat
from app.submission.estimate_start import estimate_start
from app.tasks.domain.task import new_id
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store.batches import BatchRow, get_batch, task_ids
from app.tasks.store.submissions import (
    NewBatch,
    NewTask,
    discard_intake,
    finish_intake,
    insert_batch,
    insert_tasks,
    remember_key,
)

MOST_TASKS = 1_000_000  # of one batch
SHOWN_IDS = 1_000  # of its tasks, in the answer
INTAKE_SECONDS = 3600.0  # how long one batch may take to come in; longer-lived intakes are taken for dead
_CHUNK_ROWS = 1_000
_CHUNK_CHARACTERS = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """What stands after a submission."""

    row: BatchRow
    task_ids: list[str]  # the first 1,000, in the order of the requests
    repeated: bool  # the batch was there already


class SubmitBatch:
    """The use case."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
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
        self._reservoir = reservoir
        self._rules = rules
        self._clock = clock

    def submit(
        self,
        client_id: str,
        options: BatchRequest,
        requests: Iterable[TaskRequest],
        repeat: Callable[[], IdempotencyKey | None] = lambda: None,
    ) -> SubmittedBatch:
        """Accept a batch.

        1. Check what holds for all of it.
        2. Draft its rows as they come in, and store every full chunk, held: nobody sees or runs them.
        3. In one transaction: the last chunk, the idempotency key, the release. This is when it begins to be.
        4. Wake the feeder. Whatever fails before 3 has ended takes back what was stored.

        `repeat` is asked once all requests were read, since a fingerprint needs all of them. Raises Invalid,
        DatabaseUnreachable, and whatever `requests` raises.
        """
        self._check(options)
        with self._tracer.span("submit", client=client_id) as span:
            submitted = self._submit(client_id, options, requests, repeat, span.traceparent)
            span.tell(batch=submitted.row.id, tasks=submitted.row.total, repeated=submitted.repeated)
        return submitted

    def _submit(
        self,
        client_id: str,
        options: BatchRequest,
        requests: Iterable[TaskRequest],
        repeat: Callable[[], IdempotencyKey | None],
        trace: str | None,
    ) -> SubmittedBatch:
        intake = _Intake(
            self._database, self._clock, client_id, options, self._admission, self._explain, trace
        )
        try:
            self._read(intake, requests)
            submitted = intake.finish(repeat())
        except BaseException:
            intake.discard()
            raise
        if submitted.repeated:
            intake.discard()
        else:
            intake.count(self._meter)
            self._reservoir.ring()
        return submitted

    def _check(self, options: BatchRequest) -> None:
        if options.model is not None:
            check_model(options.model, self._rules)
        check_policy(options.retry, self._rules)
        check_callback(options.callback_url, self._rules)

    def _read(self, intake: _Intake, requests: Iterable[TaskRequest]) -> None:
        names = _Names()
        for index, request in enumerate(requests):
            if index >= MOST_TASKS:
                raise Invalid(f"requests: more than {MOST_TASKS} in one batch", param="requests", status=413)
            names.check(request.custom_id, index)
            place = intake.place(index)
            row = draft_task(request, intake.client_id, self._rules, intake.created_at, place)
            intake.add(row, request.store, request.order)


class _Names:
    """The custom ids met so far, by their hashes: eight bytes instead of up to 512."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def check(self, custom_id: str | None, index: int) -> None:
        """Refuse a name that was there before."""
        if custom_id is None:
            return
        digest = hash(custom_id)
        if digest in self._met:
            param = f"requests[{index}].custom_id"
            raise Invalid(
                f"{param}: an earlier request has it already", param=param, code="duplicate_custom_id"
            )
        self._met.add(digest)


class _Intake:
    """A batch on its way in."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        client_id: str,
        options: BatchRequest,
        admission: Admission | None = None,
        explain: Explain | None = None,
        trace: str | None = None,
    ) -> None:
        self._explain = explain or NoExplanation()
        self._trace = trace
        self._admission = admission
        self._wish = Spent()  # what all of it may use of a budget
        self._database = database
        self._clock = clock
        self._began = clock.monotonic()
        self._options = options
        self.client_id = client_id
        self.created_at = clock.now()
        self._batch = self._new_batch()
        self._opened = False  # whether anything is stored
        self._finished = False
        self._total = 0
        self._models: Counter[str] = Counter()
        self._behind = PipelinedWriter()
        self._chunk: list[NewTask] = []
        self._characters = 0

    def place(self, index: int) -> Place:
        """The place of its next task."""
        return Place(self._batch.id, index, self._options, self._batch.expires_at)

    def add(self, row: NewTask, store: bool | None = None, order: Order | None = None) -> None:
        """Take a row; stores the chunk when it is full. Raises what admission refuses."""
        row.trace = self._trace
        if self._admission is not None:
            row = self._admission.draft(row, store, order or self._options.order)
            if row.reserved_tokens is not None:
                self._wish += Spent(row.reserved_tokens, row.reserved_picos or 0)
        if self._options.batch_size is None:  # else its own pace decides, which nobody knows yet
            estimate_start(row, self._explain, self.created_at)
        self._chunk.append(row)
        self._characters += len(row.request)
        self._total += 1
        self._models[row.model] += 1
        if len(self._chunk) >= _CHUNK_ROWS or self._characters >= _CHUNK_CHARACTERS:
            self._store_chunk()

    def finish(self, repeat: IdempotencyKey | None) -> SubmittedBatch:
        """Let it begin, unless its key stands for another one. Raises Invalid for an empty batch."""
        self._behind.settle()
        if not self._total:
            raise Invalid("requests: at least one is needed", param="requests", code="missing_field")
        finished = self._database.write(lambda conn: self._finish(conn, repeat))
        if isinstance(finished, SubmittedBatch):
            self._finished = True
            return finished
        fingerprint, batch_id = finished
        if repeat is not None:
            check_repeat(repeat, fingerprint)
        return self._database.read(lambda conn: _submitted(conn, batch_id, repeated=True))

    def count(self, meter: Meter) -> None:
        """Count its tasks: they are taken in."""
        for model, count in self._models.items():
            meter.submitted("batch", self.client_id, model, count)

    def discard(self) -> None:
        """Take back what was stored. A database out of reach now keeps it hidden until it is cleaned."""
        with suppress(Exception):  # whatever kept the last chunk from being stored is known already, or late
            self._behind.settle()
        if self._opened and not self._finished:
            try:
                while self._database.write(lambda conn: discard_intake(conn, self._batch.id, _CHUNK_ROWS)):
                    pass
            except PenstockError:
                return

    def _store_chunk(self) -> None:
        if self._clock.monotonic() - self._began > INTAKE_SECONDS:
            raise Invalid("the batch took longer than an hour to come in", code="request_timeout", status=408)
        rows, self._chunk, self._characters = self._chunk, [], 0
        self._behind.do(lambda: self._store(rows))

    def _store(self, rows: list[NewTask]) -> None:
        self._database.write(lambda conn: self._insert(conn, rows))
        self._opened = True

    def _insert(self, conn: Connection, rows: list[NewTask]) -> None:
        if not self._opened:
            insert_batch(conn, self._batch)
        insert_tasks(conn, rows)

    def _finish(self, conn: Connection, repeat: IdempotencyKey | None) -> SubmittedBatch | tuple[str, str]:
        """What now stands, or the fingerprint and the object that stand under the key."""
        if repeat is not None:
            until = self.created_at + KEPT_SECONDS
            fingerprint, standing = remember_key(
                conn, self.client_id, repeat.key, repeat.fingerprint, self._batch.id, self.created_at, until
            )
            if standing != self._batch.id:
                return fingerprint, standing
        self._insert(conn, self._chunk)
        if self._admission is not None:
            self._admission.take_batch(conn, self.client_id, self._wish, self.created_at)
        finish_intake(conn, self._batch.id, self._total, self._clock.now())
        return _submitted(conn, self._batch.id, repeated=False)

    def _new_batch(self) -> NewBatch:
        return NewBatch(
            id=new_id("batch", self.created_at),
            client_id=self.client_id,
            created_at=self.created_at,
            expires_at=self.created_at + self._options.expires_in,
            batch_size=self._options.batch_size,
            callback_url=self._options.callback_url,
            metadata=as_json(self._options.metadata, "metadata"),
        )


def _submitted(conn: Connection, batch_id: str, *, repeated: bool) -> SubmittedBatch:
    row = get_batch(conn, None, batch_id)
    if row is None:
        raise NotFound(
            "the key stands for a batch that is gone", param="Idempotency-Key", code="batch_not_found"
        )
    return SubmittedBatch(row, task_ids(conn, batch_id, SHOWN_IDS), repeated)
