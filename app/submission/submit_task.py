"""Take one task in: stored first, published after, and only its id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from app.caching.domain.answer import CachedAnswer
from app.caching.store.coalesce_join import JoinResult
from app.caching.use_cache import UseCache, publish_join
from app.pacing.ports import Explain, NoExplanation
from app.platform.database import Database, GroupCommit
from app.platform.domain.errors import DatabaseUnreachable, Rejected
from app.platform.ports import Clock, NoTracer, Tracer
from app.submission.admit import Admission
from app.submission.check_request import SubmissionRules, draft_task, estimate_start
from app.submission.domain.request import TaskRequest
from app.submission.domain.request_headers import KEPT_SECONDS, IdempotencyKey, check_repeat
from app.submission.hold_connections import WaitingCall, insert_calls
from app.tasks.domain.attempt import Message
from app.tasks.domain.task import Hold
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store.feeding import mark_unqueued
from app.tasks.store.submissions import SMALL_BATCH, NewTask, insert_tasks, release_key, remember_key


@dataclass(frozen=True, slots=True)
class Submitted:
    """What stands after a submission."""

    task_id: str
    row: NewTask | None  # None: a repeat, the task was there already
    answered: bool = False  # it has ended: the answer was there


@dataclass(frozen=True, slots=True)
class _Wish:
    row: NewTask
    repeat: IdempotencyKey | None
    call: WaitingCall | None = None
    answer: CachedAnswer | None = None  # that is there already


@dataclass(frozen=True, slots=True)
class _Stored:
    task_id: str
    sequence: int | None = None  # None: a repeat, nothing was stored
    fingerprint: str = ""  # what stands under the key
    row: NewTask | None = None  # as it was stored
    runs: bool = True  # False: its answer was there
    refusal: Rejected | None = None  # instead of being stored
    settled: JoinResult | None = None  # what joining changed for others; told by one of those stored together


class SubmitTask:
    """The use case; keeps the thread that commits waiting submissions together."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
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
        self._reservoir = reservoir
        self._rules = rules
        self._clock = clock
        self._admission = admission
        self._commits: GroupCommit[_Wish, _Stored] = GroupCommit(self._commit, after=self._publish)

    def submit(
        self,
        client_id: str,
        request: TaskRequest,
        repeat: IdempotencyKey | None = None,
        *,
        task_id: str | None = None,
        call: WaitingCall | None = None,
    ) -> Submitted:
        """Accept a task. `task_id`: what it is to be called; `call`: the request that will wait for it.

        1. Check it; nothing is stored that could not run. 2. Look whether its answer is there.
        3. Store it, together with all submissions that wait at this moment, and commit. Who would lead identical tasks
           looks once more: an earlier leader may have ended since 2.
        4. Publish the ids of all that were stored. What Redis does not take now waits in the database for the feeder.

        Raises Invalid (also for a key that came with another payload), what admission refuses, DatabaseUnreachable.
        """
        now = self._clock.now()
        row = draft_task(request, client_id, self._rules, now)
        if task_id is not None:
            row = replace(row, id=task_id)
        with self._tracer.span("submit", client=client_id, model=row.model) as span:
            if span.traceparent is not None:
                row = replace(row, trace=span.traceparent)
            submitted = self._submit(row, request, repeat, call, now)
            span.tell(task=submitted.task_id, repeated=submitted.row is None)
        return submitted

    def _submit(
        self,
        row: NewTask,
        request: TaskRequest,
        repeat: IdempotencyKey | None,
        call: WaitingCall | None,
        now: float,
    ) -> Submitted:
        if self._admission is not None:
            row = self._admission.draft(row, request.store, request.order)
        row = self._cache.draft(row)
        answer = self._cache.find(row)
        if answer is None:
            estimate_start(row, self._explain, now)
        stored = self._commits.submit(_Wish(row, repeat, call, answer))
        if stored.refusal is not None:
            raise stored.refusal
        if stored.sequence is None:
            if repeat is not None:
                check_repeat(repeat, stored.fingerprint)
            return Submitted(stored.task_id, None)
        row = stored.row or row
        self._count(row, "single" if call is None else "chat", found=not stored.runs)
        if stored.settled is not None:
            publish_join(self._database, self._reservoir, stored.settled)
        return Submitted(row.id, row, answered=not stored.runs)

    def _count(self, row: NewTask, way: str, *, found: bool) -> None:
        self._meter.submitted(way, row.client_id, row.model)
        if row.cache_look:
            self._meter.looked_up(found=found)

    def close(self) -> None:
        """Finish what waits."""
        self._commits.close()

    def _commit(self, wishes: Sequence[_Wish]) -> list[_Stored]:
        """Store wishes for good; where nothing but their tasks is to be stored, in a single statement."""
        if len(wishes) > SMALL_BATCH or not all(map(self._is_plain, wishes)):
            return self._database.write(lambda conn: self._store(conn, wishes))
        rows = [wish.row for wish in wishes]
        numbers = self._database.write_single(lambda conn: insert_tasks(conn, rows))
        return [_Stored(row.id, number, "", row) for row, number in zip(rows, numbers, strict=True)]

    def _is_plain(self, wish: _Wish) -> bool:
        row, beside = wish.row, wish.repeat or wish.call or wish.answer
        counts = self._admission is not None and self._admission.counts(row.client_id)
        return beside is None and not row.joins and not counts

    def _store(self, conn: Connection, wishes: Sequence[_Wish]) -> list[_Stored]:
        """Store what is new, in the order of arrival; the first under a key wins, here and in other processes."""
        standing = _what_stands(conn, wishes)
        rows = [wish.row for wish in wishes if wish.row.id not in standing]
        found = {wish.row.id: wish.answer for wish in wishes if wish.answer is not None}
        costly = [row for row in rows if row.id not in found]
        admitted = self._admission.take(conn, costly) if self._admission is not None else {}
        _forget_repeats(conn, [wish for wish in wishes if isinstance(admitted.get(wish.row.id), Rejected)])
        for row in rows:
            decided = admitted.get(row.id)
            if isinstance(decided, Rejected):
                standing[row.id] = _Stored(row.id, refusal=decided)
        stored = {row.id: _admitted(admitted, row) for row in rows if row.id not in standing}
        joined, settled, found = self._cache.join(conn, list(stored.values()), found)
        stored = {row.id: row for row in joined}
        numbers = dict(zip(stored, insert_tasks(conn, joined), strict=True))
        self._cache.give(conn, {name: found[name] for name in stored if name in found}, self._clock.now())
        insert_calls(conn, [wish.call for wish in wishes if wish.call is not None and wish.row.id in numbers])
        told = settled if settled.replaced or settled.hurried else None
        new = {
            name: _Stored(
                name, numbers[name], "", row, runs=name not in found, settled=told if place == 0 else None
            )
            for place, (name, row) in enumerate(stored.items())
        }
        return [standing.get(wish.row.id) or new[wish.row.id] for wish in wishes]

    def _publish(self, stored: Sequence[_Stored]) -> None:
        """One call to Redis for all that one transaction stored."""
        new = [
            (one.row, one.sequence)
            for one in stored
            if one.row is not None and one.sequence is not None and one.runs
        ]
        messages = [_message(row, sequence) for row, sequence in new if row.hold == Hold.NONE]
        refused = self._reservoir.publish(messages) if messages else {}
        if refused:
            self._leave_to_feeder(refused)
        elif len(messages) < len(new):
            self._reservoir.ring()

    def _leave_to_feeder(self, task_ids: Iterable[str]) -> None:
        """Mark rows as waiting in the database. Should that fail, the reconciler finds them seconds later."""
        try:
            self._database.write(lambda conn: mark_unqueued(conn, list(task_ids)))
        except DatabaseUnreachable:
            return
        self._reservoir.ring()


def _what_stands(conn: Connection, wishes: Sequence[_Wish]) -> dict[str, _Stored]:
    """Claim the keys, in their order, so that two processes never lock them crosswise.

    Gives back, by the id of the new row, what an earlier request under its key has made.
    """
    standing = {}
    for row, repeat in sorted(_keyed(wishes), key=lambda keyed: (keyed[0].client_id, keyed[1].key)):
        until = row.created_at + KEPT_SECONDS
        fingerprint, object_id = remember_key(
            conn, row.client_id, repeat.key, repeat.fingerprint, row.id, row.created_at, until
        )
        if object_id != row.id:
            standing[row.id] = _Stored(object_id, None, fingerprint)
    return standing


def _admitted(admitted: Mapping[str, NewTask | Rejected], row: NewTask) -> NewTask:
    decided = admitted.get(row.id, row)
    return row if isinstance(decided, Rejected) else decided


def _forget_repeats(conn: Connection, wishes: Sequence[_Wish]) -> None:
    """A request that is refused leaves its key free."""
    for row, repeat in _keyed(wishes):
        release_key(conn, row.client_id, repeat.key, row.id)


def _keyed(wishes: Sequence[_Wish]) -> list[tuple[NewTask, IdempotencyKey]]:
    return [(wish.row, wish.repeat) for wish in wishes if wish.repeat is not None]


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
