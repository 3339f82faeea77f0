"""Tasks that use the cache: answered from it, joined with identical tasks, or released to run.

Single submissions join in the transaction that stores them; rows of batches, and those that become due, wait in
Hold.JOINING for the leader's next round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, select, text

from app.caching.domain.caching import CachedAnswer
from app.caching.domain.coalescing import Joined, Participant, join_all, successor
from app.caching.store.coalescing_keys import (
    Move,
    ReusedAnswer,
    followers,
    is_following,
    leaders,
    lock_keys,
    move,
    participant,
    reuse_answers,
    stop_leading,
)
from app.platform.domain.money import NO_SUM, CallCost
from app.tasks.domain.attempt import TokenUsage
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.progress import EndedTask, record_progress
from app.tasks.store.tables import ABANDONED, JOINING, task, task_content

Look = Callable[[Collection[str]], Mapping[str, CachedAnswer]]
"""Reads cached answers by key. Called again with the keys locked: a leader caches its answer before it ends, so a task
that finds no leader then finds the answer of one that has just ended."""


@dataclass(frozen=True, slots=True)
class JoiningTask:
    """A row in Hold.JOINING."""

    task_id: str
    batch_id: str | None
    key: str
    looks: bool
    joins: bool  # with identical tasks, if enabled


@dataclass(frozen=True, slots=True)
class JoinResult:
    """What must still be published to Redis and waiters."""

    ended: Sequence[str] = ()
    callbacks: Sequence[str] = ()
    replaced: Sequence[str] = ()  # their queue entries in Redis are void
    hurried: Sequence[str] = ()  # to be fed again, at the front
    released: int = 0  # rows that may now be fed
    left: int = 0  # rows that still wait: an answer was cached after the caller had looked


@dataclass(slots=True)
class _Changes:
    moves: list[Move] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    hurried: list[str] = field(default_factory=list)

    def add(self, joined: Joined, newcomers: Iterable[str]) -> None:
        """Add the changes of stored rows that the joining of one key causes."""
        if joined.leader.task_id in newcomers:
            self.moves.append(Move(joined.leader.task_id, Hold.NONE, leads=True))
        elif joined.hurried:
            self.moves.append(Move(joined.leader.task_id, Hold.NONE, leads=True, hurries=True))
            self.hurried.append(joined.leader.task_id)
        if joined.replaced is not None:
            self.moves.append(Move(joined.replaced.task_id, Hold.FOLLOWING))
            self.replaced.append(joined.replaced.task_id)
        self.moves += (Move(follower.task_id, Hold.FOLLOWING) for follower in joined.followers)


def admit(
    conn: Connection, rows: Sequence[NewTask], look: Look
) -> tuple[list[NewTask], JoinResult, dict[str, CachedAnswer]]:
    """Let new tasks join before they are inserted; returns them as to be stored, in order.

    Leaders may be published; followers are held. Also returns the answers, by task, that `look` found for tasks that
    would have led: their rows are unchanged.
    """
    joining = [row for row in rows if row.joins and row.hold == Hold.NONE]
    if not joining:
        return list(rows), JoinResult(), {}
    keys = {row.cache_key or "" for row in joining}
    leading = _lock_leaders(conn, keys)
    late = look(sorted(keys - leading.keys())) if keys - leading.keys() else {}
    changes = _Changes()
    stored: dict[str, NewTask] = {}
    for key, mine in _by_key(row for row in joining if row.cache_key not in late).items():
        joined = join_all([_newcomer(row) for row in mine], leading.get(key))
        changes.add(joined, ())
        for row in mine:
            leads = row.id == joined.leader.task_id
            stored[row.id] = replace(row, leads=True) if leads else _as_follower(row)
    move(conn, [one for one in changes.moves if one.task_id not in stored])
    answers = {row.id: late[key] for row in joining if (key := row.cache_key or "") in late}
    settled = JoinResult(replaced=changes.replaced, hurried=changes.hurried)
    return [stored.get(row.id, row) for row in rows], settled, answers


def answer_new(conn: Connection, answers: Mapping[str, CachedAnswer], at: float) -> None:
    """End single tasks, inserted in this transaction, with cached answers; `answers` by task."""
    rows = lock_tasks(conn, answers)
    given = [ReusedAnswer(row, answers[name], at, cached=True) for name, row in rows.items()]
    reuse_answers(conn, given)
    record_progress(
        conn, {}, [EndedTask.of(item.row, Status.SUCCEEDED, at, item.answer.finish) for item in given]
    )


def waiting_to_join(conn: Connection, limit: int) -> list[JoiningTask]:
    """The first rows that wait to join. They are not locked."""
    columns = (task.c.id, task.c.batch_id, task.c.cache_key, task.c.cache_look, task.c.cache_seconds)
    found = select(*columns, task.c.degrade_at).where(text(JOINING)).order_by(task.c.seq).limit(limit)
    return [
        JoiningTask(
            row.id,
            row.batch_id,
            row.cache_key or "",
            looks=row.cache_look,
            joins=row.cache_look and row.cache_seconds is not None and row.degrade_at is None,
        )
        for row in conn.execute(found)
    ]


def join_waiting(
    conn: Connection,
    waiting: Sequence[JoiningTask],
    answers: Mapping[str, CachedAnswer],
    at: float,
    *,
    coalesce: bool,
    look: Look,
) -> JoinResult:
    """Answer, join or release the rows that were read. `answers` by key.

    1. Lock the keys of those that may join, then batches, then rows. 2. End tasks that have an answer.
    3. Join the others, key by key. 4. Tasks that join none may run; but one whose answer was cached meanwhile is left
    to the next round, since batches are locked before rows.
    """
    joins = {one.key for one in waiting if one.joins and coalesce and not _answer(one, answers)}
    lock_keys(conn, joins)
    answered = {one.task_id: answer for one in waiting if (answer := _answer(one, answers)) is not None}
    batches = lock_batches(conn, (one.batch_id for one in waiting if one.task_id in answered))
    led = leaders(conn, joins)
    rows = lock_tasks(conn, {one.task_id for one in waiting} | set(led.values()))
    leading = {key: participant(rows[name]) for key, name in led.items() if name in rows and rows[name].leads}
    late = look(sorted(joins - leading.keys())) if joins - leading.keys() else {}
    here = {one.task_id: rows[one.task_id] for one in waiting if _is_joining(rows.get(one.task_id))}
    given = [
        ReusedAnswer(here[name], answer, at, cached=True) for name, answer in answered.items() if name in here
    ]
    reuse_answers(conn, given)
    left = {one.task_id for one in waiting if one.joins and one.key in late and one.task_id in here}
    changes = _join(
        [row for name, row in here.items() if name not in answered and name not in left],
        {one.task_id for one in waiting if one.joins and coalesce},
        leading,
    )
    move(conn, changes.moves)
    callbacks = record_progress(
        conn, batches, [EndedTask.of(item.row, Status.SUCCEEDED, at, item.answer.finish) for item in given]
    )
    return JoinResult(
        ended=[item.row.id for item in given],
        callbacks=[event for events in callbacks.values() for event in events],
        replaced=changes.replaced,
        hurried=changes.hurried,
        released=sum(one.hold is Hold.NONE for one in changes.moves),
        left=len(left),
    )


def _answer(one: JoiningTask, answers: Mapping[str, CachedAnswer]) -> CachedAnswer | None:
    return answers.get(one.key) if one.looks else None


def _is_joining(row: Row[Any] | None) -> bool:
    return row is not None and row.status == Status.QUEUED and row.hold == Hold.JOINING


def _join(rows: Sequence[Row[Any]], joining: set[str], leading: Mapping[str, Participant]) -> _Changes:
    changes = _Changes([Move(row.id, Hold.NONE) for row in rows if row.id not in joining])
    by_key: dict[str, list[Row[Any]]] = {}
    for row in rows:
        if row.id in joining:
            by_key.setdefault(row.cache_key, []).append(row)
    for key, mine in by_key.items():
        changes.add(join_all([participant(row) for row in mine], leading.get(key)), {row.id for row in mine})
    return changes


def _lock_leaders(conn: Connection, keys: set[str]) -> dict[str, Participant]:
    """Lock keys and their leaders; returns the leaders by key."""
    lock_keys(conn, keys)
    led = leaders(conn, keys)
    rows = lock_tasks(conn, led.values()) if led else {}
    return {key: participant(rows[name]) for key, name in led.items() if name in rows and rows[name].leads}


def _as_follower(row: NewTask) -> NewTask:
    return replace(row, hold=Hold.FOLLOWING, fed_at=None)


def _by_key(rows: Iterable[NewTask]) -> dict[str, list[NewTask]]:
    found: dict[str, list[NewTask]] = {}
    for row in rows:
        found.setdefault(row.cache_key or "", []).append(row)
    return found


def _newcomer(row: NewTask) -> Participant:
    return Participant(row.id, 0, row.client_id, row.step, row.expires_at)


FOLLOWERS_AT_ONCE = 2_000


def any_abandoned(conn: Connection) -> bool:
    """Whether there is a leader that brings no answer."""
    some = select(task.c.seq).where(text(ABANDONED)).order_by(task.c.seq).limit(1)
    return conn.execute(some).first() is not None


def replace_abandoned(conn: Connection, limit: int, at: float) -> JoinResult:
    """Replace up to `limit` leaders that bring no answer, with a bounded number of followers. Call until all are.

    1. Lock the keys, then batches, then rows. 2. End the followers of leaders that succeeded after all, whose end did
    not see them. 3. Else let the most urgent follower lead. 4. Leaders without followers stop leading.
    """
    found = conn.execute(
        select(task.c.id, task.c.cache_key).where(text(ABANDONED)).order_by(task.c.seq).limit(limit)
    ).all()
    if not found:
        return JoinResult()
    keys = {row.cache_key for row in found}
    lock_keys(conn, keys)
    waiting = followers(conn, keys, FOLLOWERS_AT_ONCE)
    batches = lock_batches(conn, {row.batch_id for row in waiting})
    rows = lock_tasks(conn, {row.id for row in found} | {row.id for row in waiting})
    old = [rows[row.id] for row in found if row.id in rows and rows[row.id].leads]
    following = [rows[row.id] for row in waiting if row.id in rows]
    over = [row for row in old if _is_over(row)]
    given = _answers(conn, [row for row in over if row.status == Status.SUCCEEDED], following, at)
    reuse_answers(conn, given)
    successors = _successors([row for row in over if row.status != Status.SUCCEEDED], following)
    stop_leading(
        conn, [row.id for row in over if len(waiting) < FOLLOWERS_AT_ONCE or row.status != Status.SUCCEEDED]
    )
    move(conn, [Move(next_leader.id, Hold.NONE, leads=True) for next_leader in successors])
    callbacks = record_progress(
        conn, batches, [EndedTask.of(item.row, Status.SUCCEEDED, at, item.answer.finish) for item in given]
    )
    return JoinResult(
        ended=[item.row.id for item in given],
        callbacks=[event for events in callbacks.values() for event in events],
        released=len(successors),
    )


def _is_over(row: Row[Any]) -> bool:
    return Status(row.status).ended or (row.status == Status.QUEUED and row.hold == Hold.PAUSED)


def _successors(old: Sequence[Row[Any]], following: Sequence[Row[Any]]) -> list[Row[Any]]:
    found = []
    for leader in old:
        mine = {row.id: row for row in following if is_following(row, leader.cache_key)}
        next_leader = successor(map(participant, mine.values()))
        if next_leader is not None:
            found.append(mine[next_leader.task_id])
    return found


def _answers(
    conn: Connection, leaders: Sequence[Row[Any]], following: Sequence[Row[Any]], at: float
) -> list[ReusedAnswer]:
    given = []
    for leader in leaders:
        answer = _answer_of(conn, leader.seq)
        mine = [row for row in following if is_following(row, leader.cache_key)]
        given += [ReusedAnswer(row, answer, at, cached=False) for row in mine]
    return given


def _answer_of(conn: Connection, seq: int) -> CachedAnswer:
    """The answer of a task that succeeded. Its cost is that of all its calls."""
    both = select(task, task_content.c.result).join(task_content, task_content.c.seq == task.c.seq)
    row = conn.execute(both.where(task.c.seq == seq)).one()
    counted = row.prompt_tokens is not None and row.completion_tokens is not None
    usage = (
        TokenUsage(
            row.prompt_tokens, row.completion_tokens, row.cached_tokens or 0, row.reasoning_tokens or 0
        )
        if counted
        else None
    )
    known = row.cost_picos is not None and row.currency not in (None, NO_SUM)
    cost = CallCost(row.cost_picos, row.currency) if known else None
    return CachedAnswer(row.result or "null", usage, cost, row.simulated, finish=row.finish)
