"""Submit one task: store it first, then publish its id.

Request threads share one `SubmitTask`. Submissions that arrive together are committed together, by the thread of the
first one (`GroupCommit`); a row belongs to its own thread until it is handed over there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from app.access.domain.caller import NO_LIMITS
from app.caching.domain.caching import CachedAnswer
from app.caching.store.coalesce_join import JoinResult
from app.caching.use_cache import UseCache, publish_join
from app.pacing.ports import Explain, NoExplanation
from app.platform.database import Database, GroupCommit
from app.platform.domain.errors import DatabaseUnreachable, Rejected
from app.platform.ports import Clock, NoTracer, Tracer
from app.submission.admit import Admission
from app.submission.check_request import SubmissionRules, draft_task, estimate_start
from app.submission.domain.request import KEPT_SECONDS, IdempotencyKey, TaskRequest, check_repeat
from app.submission.hold_connections import WaitingCall, insert_calls
from app.tasks.domain.attempt import Message
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store.feeding import mark_unqueued
from app.tasks.store.submissions import insert_tasks, release_key, remember_key


@dataclass(frozen=True, slots=True)
class Submitted:
    """The result of a submission."""

    task_id: str
    row: NewTask | None  # None: a repeat, the task existed already
    answered: bool = False  # it has ended already, with a cached answer


@dataclass(frozen=True, slots=True)
class _Submission:
    row: NewTask
    repeat: IdempotencyKey | None
    call: WaitingCall | None = None
    answer: CachedAnswer | None = None  # a cached one


@dataclass(frozen=True, slots=True)
class _Stored:
    task_id: str
    sequence: int | None = None  # None: a repeat, nothing was stored
    fingerprint: str = ""  # recorded under the key
    row: NewTask | None = None  # as it was stored
    runs: bool = True  # False: it was answered from the cache
    refusal: Rejected | None = None  # instead of being stored
    settled: JoinResult | None = None  # how joining changed other tasks; set on one of those stored together


class SubmitTask:
    """The use case; one for each process."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        rules: SubmissionRules,
        clock: Clock,
        admission: Admission | None = None,
        cache: UseCache | None = None,
        explain: Explain | None = None,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or NoTracer()
        self._explain = explain or NoExplanation()
        self._meter = meter or NoMeter()
        self._cache = cache or UseCache()
        self._database = database
        self._publisher = publisher
        self._rules = rules
        self._clock = clock
        self._admission = admission
        self._commits: GroupCommit[_Submission, _Stored] = GroupCommit(self._commit, after=self._publish)

    def submit(
        self,
        client_id: str,
        request: TaskRequest,
        repeat: IdempotencyKey | None = None,
        *,
        task_id: str | None = None,
        call: WaitingCall | None = None,
    ) -> Submitted:
        """Accept a task. `task_id`: its id, if given; `call`: the request that will wait for it.

        1. Check it and apply policies: nothing is stored that could not run (`draft_task`, `Admission.draft`).
        2. Look for a cached answer; for a model that nothing can serve now, for its fallback, if the task allows it.
        3. Store it, together with the submissions that arrived meanwhile, and commit (`_commit`). The first of
           identical tasks looks for an answer again: an earlier one may have ended since 2.
        4. Publish the ids of all that were stored (`_publish`). What Redis cannot take now waits for the feeder.

        Raises Invalid (also for a key reused with another payload), what admission refuses, DatabaseUnreachable.
        """
        now = self._clock.now()
        limits = NO_LIMITS if self._admission is None else self._admission.limits_of(client_id)
        row = draft_task(request, client_id, self._rules, now, limits=limits)
        if task_id is not None:
            row = replace(row, id=task_id)
        with self._tracer.span("submit", client=client_id, model=row.model) as span:
            if span.traceparent is not None:
                row = replace(row, trace=span.traceparent)
            submitted = self._submit(row, repeat, call, now)
            span.set(task=submitted.task_id, repeated=submitted.row is None)
        return submitted

    def _submit(
        self,
        row: NewTask,
        repeat: IdempotencyKey | None,
        call: WaitingCall | None,
        now: float,
    ) -> Submitted:
        if self._admission is not None:
            row = self._admission.draft(row)
        answer = self._cache.find(row)
        if answer is None and row.degrade_at is not None and self._explain.is_down(row.model):
            answer = self._cache.fall_back(row, now)
        if answer is None:
            estimate_start(row, self._explain, now)
        stored = self._commits.submit(_Submission(row, repeat, call, answer))
        if stored.refusal is not None:
            raise stored.refusal
        if stored.sequence is None:
            if repeat is not None:
                check_repeat(repeat, stored.fingerprint)
            return Submitted(stored.task_id, None)
        row = stored.row or row
        self._count(row, "single" if call is None else "chat", found=not stored.runs)
        if stored.settled is not None:
            publish_join(self._database, self._publisher, stored.settled)
        return Submitted(row.id, row, answered=not stored.runs)

    def _count(self, row: NewTask, way: str, *, found: bool) -> None:
        self._meter.submitted(way, row.client_id, row.model)
        if row.cache_look:
            self._meter.looked_up(found=found)

    def close(self) -> None:
        """Finish what is waiting."""
        self._commits.close()

    def _commit(self, submissions: Sequence[_Submission]) -> list[_Stored]:
        """Store submissions and commit."""
        return self._database.write(lambda conn: self._store(conn, submissions))

    def _store(self, conn: Connection, submissions: Sequence[_Submission]) -> list[_Stored]:
        """Store what is new, in order of arrival; the first under a key wins, here and in other processes.

        1. Claim idempotency keys. 2. Count limits and budgets. 3. Join identical tasks. 4. Insert the tasks,
        the answers that were found, and the calls that wait.
        """
        results = _claim_keys(conn, submissions)
        fresh = [one for one in submissions if one.row.id not in results]
        answers = {one.row.id: one.answer for one in fresh if one.answer is not None}
        rows, joined, answers = self._cache.join(conn, self._admit(conn, fresh, results), answers)
        numbers = dict(zip((row.id for row in rows), insert_tasks(conn, rows), strict=True))
        found = {task_id: answers[task_id] for task_id in numbers if task_id in answers}
        self._cache.give(conn, found, self._clock.now())
        insert_calls(conn, [one.call for one in fresh if one.call is not None and one.row.id in numbers])
        for row in rows:
            results[row.id] = _Stored(row.id, numbers[row.id], "", row, runs=row.id not in found)
        if rows and (joined.replaced or joined.hurried):
            results[rows[0].id] = replace(results[rows[0].id], settled=joined)
        return [results[one.row.id] for one in submissions]

    def _admit(
        self, conn: Connection, fresh: Sequence[_Submission], results: dict[str, _Stored]
    ) -> list[NewTask]:
        """Return the rows that limits and budgets accept; refusals go into `results`, and free their keys."""
        costly = [one.row for one in fresh if one.answer is None]
        decided = self._admission.take(conn, costly) if self._admission is not None else {}
        rows = []
        for one in fresh:
            row = decided.get(one.row.id, one.row)
            if not isinstance(row, Rejected):
                rows.append(row)
                continue
            results[one.row.id] = _Stored(one.row.id, refusal=row)
            if one.repeat is not None:
                release_key(conn, one.row.client_id, one.repeat.key, one.row.id)
        return rows

    def _publish(self, stored: Sequence[_Stored]) -> None:
        """Publish all that one transaction stored, in one call to Redis."""
        new = [
            (one.row, one.sequence)
            for one in stored
            if one.row is not None and one.sequence is not None and one.runs
        ]
        messages = [_message(row, sequence) for row, sequence in new if row.hold == Hold.NONE]
        refused = self._publisher.publish(messages) if messages else {}
        if refused:
            self._leave_to_feeder(refused)
        elif len(messages) < len(new):
            self._publisher.wake()

    def _leave_to_feeder(self, task_ids: Iterable[str]) -> None:
        """Mark rows as not published. If that fails, the reconciler finds them seconds later."""
        try:
            self._database.write(lambda conn: mark_unqueued(conn, list(task_ids)))
        except DatabaseUnreachable:
            return
        self._publisher.wake()


def _claim_keys(conn: Connection, submissions: Sequence[_Submission]) -> dict[str, _Stored]:
    """Claim the idempotency keys, sorted so that two processes cannot deadlock.

    Returns, by the id of the new row, what an earlier request under its key created.
    """
    keyed = [(one.row, one.repeat) for one in submissions if one.repeat is not None]
    existing = {}
    for row, repeat in sorted(keyed, key=lambda pair: (pair[0].client_id, pair[1].key)):
        until = row.created_at + KEPT_SECONDS
        fingerprint, object_id = remember_key(
            conn, row.client_id, repeat.key, repeat.fingerprint, row.id, row.created_at, until
        )
        if object_id != row.id:
            existing[row.id] = _Stored(object_id, None, fingerprint)
    return existing


def _message(row: NewTask, sequence: int) -> Message:
    return Message(
        task_id=row.id,
        sequence=sequence,
        model=row.model,
        client=row.client_id,
        queue=row.queue,
        step=row.step,
        estimate=row.estimate,
        facts=row.facts or "",
        prefix=row.prefix or "",
        due=row.due,
        asked=row.asked,
        trace=row.trace or "",
    )
