"""Chat calls that somebody waits for: which request waits for which task, and which tasks have lost theirs.

A repeat takes over a task whose own connection is gone, by compare-and-set: of two repeats one gets it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, exists, insert, null, select, text, tuple_, update

from app.tasks.store.openai_tables import ABANDONED, holder, waiting_call
from app.tasks.store.tables import task


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A request that waits for a task. `connection` names the request, `holder` the process that has it."""

    task_id: str
    client_id: str
    fingerprint: str
    connection: str
    holder: str
    created_at: float


def insert_calls(conn: Connection, calls: Sequence[WaitingCall]) -> None:
    """Store calls, in the transaction that stores their tasks."""
    if calls:
        conn.execute(insert(waiting_call), [asdict(call) for call in calls])


def attach(conn: Connection, client_id: str, fingerprint: str, connection: str, holder_id: str) -> str | None:
    """Take over the oldest task of such a request whose connection is gone; gives back its id, None without one."""
    free = select(waiting_call.c.task_id).where(
        waiting_call.c.client_id == client_id,
        waiting_call.c.fingerprint == fingerprint,
        waiting_call.c.connection.is_(None),
    )
    oldest = free.order_by(waiting_call.c.created_at).limit(1).with_for_update(skip_locked=True)
    found: str | None = conn.execute(oldest).scalar()
    if found is None:
        return None
    still = (waiting_call.c.task_id == found) & waiting_call.c.connection.is_(None)
    mine = {"connection": connection, "holder": holder_id, "abandon_at": None}
    return found if conn.execute(update(waiting_call).where(still).values(mine)).rowcount else None


def holders_of(conn: Connection, client_id: str, fingerprint: str) -> dict[str | None, int | None]:
    """The processes that hold requests of this fingerprint, and their beats.

    Holder None: the request's connection is gone; beat None: the process is on record no more.
    """
    mine = (waiting_call.c.client_id == client_id) & (waiting_call.c.fingerprint == fingerprint)
    held = select(waiting_call.c.holder, holder.c.beat).distinct().where(mine)
    rows = conn.execute(held.outerjoin(holder, holder.c.id == waiting_call.c.holder))
    return {row.holder: row.beat for row in rows}


def free_of_dead(
    conn: Connection, client_id: str, fingerprint: str, dead: Collection[str], abandon_at: float
) -> None:
    """Free the requests of this fingerprint whose processes are dead."""
    mine = (waiting_call.c.client_id == client_id) & (waiting_call.c.fingerprint == fingerprint)
    gone = {"connection": null(), "holder": null(), "abandon_at": abandon_at}
    conn.execute(update(waiting_call).where(mine, waiting_call.c.holder.in_(dead)).values(gone))


def free(conn: Connection, task_id: str, connection: str, abandon_at: float) -> bool:
    """Say that a connection is gone: a repeat may attach until `abandon_at`. False: it was not the one that waits."""
    mine = (waiting_call.c.task_id == task_id) & (waiting_call.c.connection == connection)
    gone = {"connection": None, "holder": None, "abandon_at": abandon_at}
    return bool(conn.execute(update(waiting_call).where(mine).values(gone)).rowcount)


def forget(conn: Connection, calls: Collection[tuple[str, str]]) -> None:
    """Delete calls that were answered, by (task id, connection)."""
    if calls:
        pair = tuple_(waiting_call.c.task_id, waiting_call.c.connection)
        conn.execute(delete(waiting_call).where(pair.in_(calls)))


def free_orphans(conn: Connection, abandon_at: float) -> int:
    """Free the calls of processes that are on record no more; gives back how many."""
    alive = exists().where(holder.c.id == waiting_call.c.holder)
    orphan = waiting_call.c.connection.is_not(None) & ~alive
    gone = {"connection": null(), "holder": null(), "abandon_at": abandon_at}
    return conn.execute(update(waiting_call).where(orphan).values(gone)).rowcount


def abandoned(conn: Connection, now: float, limit: int) -> dict[str, bool]:
    """Tasks whose time without a connection is up, and whether somebody is to be told of their end all the same."""
    due = select(waiting_call.c.task_id, task.c.callback_url).outerjoin(
        task, task.c.id == waiting_call.c.task_id
    )
    due = due.where(text(ABANDONED), waiting_call.c.abandon_at <= now)
    rows = conn.execute(due.order_by(waiting_call.c.abandon_at).limit(limit))
    return {row.task_id: row.callback_url is not None for row in rows}


def drop_abandoned(conn: Connection, task_id: str) -> bool:
    """Delete a call that nobody has taken over. False: a repeat was quicker."""
    free_one = (waiting_call.c.task_id == task_id) & waiting_call.c.connection.is_(None)
    return bool(conn.execute(delete(waiting_call).where(free_one)).rowcount)
