"""Tasks that use the cache, on their way in: answered by what is there, joined with identical ones, or let run.

Single submissions are admitted in the transaction that stores them; rows of batches, and those whose time has come,
wait in Hold.JOINING for the leader's next look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, select, text

from app.caching.domain.answer import CachedAnswer
from app.caching.domain.coalescing import Joined, Participant, join_all
from app.caching.store.coalescing_keys import Move, hold_keys, leaders, move, party
from app.caching.store.reuse_answer import GivenAnswer, give_answers
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.progress import Ended, record_progress
from app.tasks.store.submissions import NewTask
from app.tasks.store.tables import JOINING, task

Look = Callable[[Collection[str]], Mapping[str, CachedAnswer]]
"""Looks for kept answers by key. Asked once more under the lock on the keys: a leader keeps its answer before it ends,
so whoever finds no leader there finds the answer of one that has just ended."""


@dataclass(frozen=True, slots=True)
class JoiningTask:
    """A row in Hold.JOINING."""

    task_id: str
    batch_id: str | None
    key: str
    looks: bool
    joins: bool  # with identical ones, where the operator allows it


@dataclass(frozen=True, slots=True)
class Settled:
    """What Redis and waiters have still to be told."""

    ended: Sequence[str] = ()
    callbacks: Sequence[str] = ()
    replaced: Sequence[str] = ()  # their places in Redis are void
    hurried: Sequence[str] = ()  # to be fed anew, to the front
    released: int = 0  # rows that may be fed now
    left: int = 0  # rows that still wait: an answer was kept after the caller had looked


@dataclass(slots=True)
class _Changes:
    moves: list[Move] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    hurried: list[str] = field(default_factory=list)

    def add(self, joined: Joined, newcomers: Iterable[str]) -> None:
        """Note what one key's joining changes about rows that are stored already."""
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
) -> tuple[list[NewTask], Settled, dict[str, CachedAnswer]]:
    """Let new tasks join, before they are inserted; returns them as they are to be stored, in order.

    Those that lead may be published; those that follow are held. Answers, by task, are those that `look` found for
    tasks that would have led: they are returned as they were.
    """
    joining = [row for row in rows if row.joins and row.hold == Hold.NONE]
    if not joining:
        return list(rows), Settled(), {}
    keys = {row.cache_key or "" for row in joining}
    standing = _hold(conn, keys)
    late = look(sorted(keys - standing.keys())) if keys - standing.keys() else {}
    changes = _Changes()
    stored: dict[str, NewTask] = {}
    for key, mine in _by_key(row for row in joining if row.cache_key not in late).items():
        joined = join_all([_newcomer(row) for row in mine], standing.get(key))
        changes.add(joined, ())
        for row in mine:
            leads = row.id == joined.leader.task_id
            stored[row.id] = replace(row, leads=True) if leads else _as_follower(row)
    move(conn, [one for one in changes.moves if one.task_id not in stored])
    answers = {row.id: late[key] for row in joining if (key := row.cache_key or "") in late}
    settled = Settled(replaced=changes.replaced, hurried=changes.hurried)
    return [stored.get(row.id, row) for row in rows], settled, answers


def answer_new(conn: Connection, answers: Mapping[str, CachedAnswer], at: float) -> None:
    """End single tasks, inserted in this transaction, by answers that were kept; `answers` by task."""
    rows = lock_tasks(conn, answers)
    given = [GivenAnswer(row, answers[name], at, cached=True) for name, row in rows.items()]
    give_answers(conn, given)
    record_progress(conn, {}, [Ended.of(item.row, Status.SUCCEEDED, at) for item in given])


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


def settle(
    conn: Connection,
    waiting: Sequence[JoiningTask],
    answers: Mapping[str, CachedAnswer],
    at: float,
    *,
    coalesce: bool,
    look: Look,
) -> Settled:
    """Answer, join or let run the rows that were read. `answers` by key.

    1. Hold the keys of those who may join, then batches, then rows. 2. Give answers that are there.
    3. Join the others, key by key. 4. Who joins nobody may run, unless an answer is kept by now: it is given in the
    next round, since batches are locked before rows.
    """
    joins = {one.key for one in waiting if one.joins and coalesce and not _answer(one, answers)}
    hold_keys(conn, joins)
    answered = {one.task_id: answer for one in waiting if (answer := _answer(one, answers)) is not None}
    batches = lock_batches(conn, (one.batch_id for one in waiting if one.task_id in answered))
    led = leaders(conn, joins)
    rows = lock_tasks(conn, {one.task_id for one in waiting} | set(led.values()))
    standing = {key: party(rows[name]) for key, name in led.items() if name in rows and rows[name].leads}
    late = look(sorted(joins - standing.keys())) if joins - standing.keys() else {}
    here = {one.task_id: rows[one.task_id] for one in waiting if _is_joining(rows.get(one.task_id))}
    given = [
        GivenAnswer(here[name], answer, at, cached=True) for name, answer in answered.items() if name in here
    ]
    give_answers(conn, given)
    left = {one.task_id for one in waiting if one.joins and one.key in late and one.task_id in here}
    changes = _join(
        [row for name, row in here.items() if name not in answered and name not in left],
        {one.task_id for one in waiting if one.joins and coalesce},
        standing,
    )
    move(conn, changes.moves)
    told = record_progress(conn, batches, [Ended.of(item.row, Status.SUCCEEDED, at) for item in given])
    return Settled(
        ended=[item.row.id for item in given],
        callbacks=[event for events in told.values() for event in events],
        replaced=changes.replaced,
        hurried=changes.hurried,
        released=sum(one.hold is Hold.NONE for one in changes.moves),
        left=len(left),
    )


def _answer(one: JoiningTask, answers: Mapping[str, CachedAnswer]) -> CachedAnswer | None:
    return answers.get(one.key) if one.looks else None


def _is_joining(row: Row[Any] | None) -> bool:
    return row is not None and row.status == Status.QUEUED and row.hold == Hold.JOINING


def _join(rows: Sequence[Row[Any]], joining: set[str], standing: Mapping[str, Participant]) -> _Changes:
    changes = _Changes([Move(row.id, Hold.NONE) for row in rows if row.id not in joining])
    by_key: dict[str, list[Row[Any]]] = {}
    for row in rows:
        if row.id in joining:
            by_key.setdefault(row.cache_key, []).append(row)
    for key, mine in by_key.items():
        changes.add(join_all([party(row) for row in mine], standing.get(key)), {row.id for row in mine})
    return changes


def _hold(conn: Connection, keys: set[str]) -> dict[str, Participant]:
    """Hold keys and their leaders; gives back the leaders by key."""
    hold_keys(conn, keys)
    led = leaders(conn, keys)
    rows = lock_tasks(conn, led.values()) if led else {}
    return {key: party(rows[name]) for key, name in led.items() if name in rows and rows[name].leads}


def _as_follower(row: NewTask) -> NewTask:
    return replace(row, hold=Hold.FOLLOWING, fed_at=None)


def _by_key(rows: Iterable[NewTask]) -> dict[str, list[NewTask]]:
    found: dict[str, list[NewTask]] = {}
    for row in rows:
        found.setdefault(row.cache_key or "", []).append(row)
    return found


def _newcomer(row: NewTask) -> Participant:
    return Participant(row.id, 0, row.client_id, row.step, row.expires_at)
