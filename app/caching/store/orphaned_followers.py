"""Leaders that bring no answer any more: they ended otherwise, or were paused. Another takes over.

A leader that succeeded is here only while it has followers left whom its end could not see; they get its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, text

from app.caching.domain.answer import CachedAnswer
from app.caching.domain.coalescing import successor
from app.caching.store.coalesce_join import Settled
from app.caching.store.coalescing_keys import Move, followers, hold_keys, is_following, move, party, resign
from app.caching.store.reuse_answer import GivenAnswer, give_answers
from app.platform.domain.money import NO_SUM, CallCost
from app.tasks.domain.attempt import TokenUsage
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.progress import Ended, record_progress
from app.tasks.store.tables import ABANDONED, task, task_content

FOLLOWERS_AT_ONCE = 2_000


def any_abandoned(conn: Connection) -> bool:
    """Whether there is such a leader."""
    some = select(task.c.seq).where(text(ABANDONED)).order_by(task.c.seq).limit(1)
    return conn.execute(some).first() is not None


def settle_abandoned(conn: Connection, limit: int, at: float) -> Settled:
    """See to the followers of up to `limit` such leaders, a bounded number of them. Until nothing is settled.

    1. Hold the keys, then batches, then rows. 2. Give answers where there is one. 3. Else let the most urgent
    follower lead. 4. A leader that nobody follows any more leads no more.
    """
    found = conn.execute(
        select(task.c.id, task.c.cache_key).where(text(ABANDONED)).order_by(task.c.seq).limit(limit)
    ).all()
    if not found:
        return Settled()
    keys = {row.cache_key for row in found}
    hold_keys(conn, keys)
    waiting = followers(conn, keys, FOLLOWERS_AT_ONCE)
    batches = lock_batches(conn, {row.batch_id for row in waiting})
    rows = lock_tasks(conn, {row.id for row in found} | {row.id for row in waiting})
    old = [rows[row.id] for row in found if row.id in rows and rows[row.id].leads]
    following = [rows[row.id] for row in waiting if row.id in rows]
    over = [row for row in old if _is_over(row)]
    given = _answers(conn, [row for row in over if row.status == Status.SUCCEEDED], following, at)
    give_answers(conn, given)
    heirs = _heirs([row for row in over if row.status != Status.SUCCEEDED], following)
    resign(
        conn, [row.id for row in over if len(waiting) < FOLLOWERS_AT_ONCE or row.status != Status.SUCCEEDED]
    )
    move(conn, [Move(heir.id, Hold.NONE, leads=True) for heir in heirs])
    told = record_progress(conn, batches, [Ended.of(item.row, Status.SUCCEEDED, at) for item in given])
    return Settled(
        ended=[item.row.id for item in given],
        callbacks=[event for events in told.values() for event in events],
        released=len(heirs),
    )


def _is_over(row: Row[Any]) -> bool:
    return Status(row.status).ended or (row.status == Status.QUEUED and row.hold == Hold.PAUSED)


def _heirs(old: Sequence[Row[Any]], following: Sequence[Row[Any]]) -> list[Row[Any]]:
    found = []
    for leader in old:
        mine = {row.id: row for row in following if is_following(row, leader.cache_key)}
        heir = successor(map(party, mine.values()))
        if heir is not None:
            found.append(mine[heir.task_id])
    return found


def _answers(
    conn: Connection, leaders: Sequence[Row[Any]], following: Sequence[Row[Any]], at: float
) -> list[GivenAnswer]:
    given = []
    for leader in leaders:
        answer = _answer_of(conn, leader.seq)
        mine = [row for row in following if is_following(row, leader.cache_key)]
        given += [GivenAnswer(row, answer, at, cached=False) for row in mine]
    return given


def _answer_of(conn: Connection, seq: int) -> CachedAnswer:
    """What a succeeded task holds. Its cost is that of all its calls."""
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
    return CachedAnswer(row.result or "null", usage, cost, row.simulated)
