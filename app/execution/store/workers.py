"""Worker processes and their beats. A worker is one run of a process: after a restart it is another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, exists, func, null, or_, select, text, update

from app.platform.dialects import insert_or
from app.tasks.domain.task import Status
from app.tasks.store.locks import lock_batches, lock_tasks
from app.tasks.store.tables import RUNNING, task, worker
from app.tasks.store.transitions import RequeueReason, finish, requeue


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process, as people see it."""

    id: str
    host: str
    pid: int
    beat_at: float


CLAIM_SECONDS = 10.0  # a younger claim may not have reached the worker's memory yet


def register(conn: Connection, id: str, host: str, pid: int, now: float) -> None:  # noqa: A002
    """Register a worker process."""
    row = insert_or(conn, worker).values(id=id, host=host, pid=pid, started_at=now, beat_at=now)
    conn.execute(row.on_conflict_do_nothing(index_elements=["id"]))


def beat(conn: Connection, id: str, held: Sequence[tuple[str, int]], now: float) -> list[str]:  # noqa: A002
    """Record that a worker is alive, and compare its memory with its rows.

    `held`: (task id, release) of everything that it has tried to claim and not yet ended. Its running rows that are not
    in `held`, if claimed more than 10 s ago (the claim's answer was lost), go back to the queue, unsent. Returns the
    ids in `held` that are not its own: not yet claimed, ended, or taken from it.
    """
    alive = {"beat": worker.c.beat + 1, "beat_at": now, "ended_at": null()}
    conn.execute(update(worker).where(worker.c.id == id).values(alive))
    running = select(task.c.id, task.c.release, task.c.claimed_at, task.c.batch_id)
    rows = conn.execute(running.where(text(RUNNING), task.c.worker == id)).all()
    ours = {(row.id, row.release) for row in rows}
    known = set(held)
    old = [row for row in rows if row.claimed_at < now - CLAIM_SECONDS]
    stray = {(row.id, row.release): row.batch_id for row in old if (row.id, row.release) not in known}
    if stray:
        _give_up(conn, id, stray, now)
    return [name for name, release in held if (name, release) not in ours]


def touch(conn: Connection, ids: Collection[str]) -> None:
    """Rewrite their rows unchanged: raises where their beats would fail."""
    conn.execute(update(worker).where(worker.c.id.in_(ids)).values(beat=worker.c.beat))


def ended(conn: Connection, id: str, now: float) -> None:  # noqa: A002
    """Record that a worker has ended, as it says itself or as the leader found out."""
    conn.execute(update(worker).where(worker.c.id == id).values(ended_at=now))


def count_wire(conn: Connection, id: str, calls: int, connections: int) -> None:  # noqa: A002
    """Record how many upstream calls a worker has made, and how many connections it opened for them."""
    conn.execute(update(worker).where(worker.c.id == id).values(calls=calls, connections=connections))


def wire(conn: Connection, since: float) -> tuple[int, int]:
    """Calls and connections of all workers with a beat since then."""
    sums = (func.coalesce(func.sum(column), 0) for column in (worker.c.calls, worker.c.connections))
    row = conn.execute(select(*sums).where(worker.c.beat_at >= since)).one()
    return int(row[0]), int(row[1])


def alive(conn: Connection, since: float) -> list[WorkerRow]:
    """Workers that have not ended, with a beat since then."""
    columns = (worker.c.id, worker.c.host, worker.c.pid, worker.c.beat_at)
    found = select(*columns).where(worker.c.ended_at.is_(None), worker.c.beat_at >= since)
    return [WorkerRow(*row) for row in conn.execute(found.order_by(worker.c.started_at, worker.c.id))]


def beats(conn: Connection) -> dict[str, int]:
    """Beat counts of workers that have not ended, and of ended ones that still own running rows."""
    runs = exists().where(text(RUNNING), task.c.worker == worker.c.id)
    found = conn.execute(select(worker.c.id, worker.c.beat).where(or_(worker.c.ended_at.is_(None), runs)))
    return {row.id: row.beat for row in found}


def _give_up(
    conn: Connection, worker_id: str, stray: Mapping[tuple[str, int], str | None], now: float
) -> None:
    """Re-queue rows that the worker does not know; cancel those with a cancel request."""
    batches = lock_batches(conn, stray.values())
    locked = lock_tasks(conn, (name for name, _ in stray)).values()
    still = [row for row in locked if row.status == Status.RUNNING and row.worker == worker_id]
    rows = [row for row in still if (row.id, row.release) in stray]
    unwanted = [row for row in rows if row.cancel_requested]
    finish(conn, batches, unwanted, Status.CANCELLED, now, unsent=True)
    requeue(conn, [row for row in rows if not row.cancel_requested], RequeueReason.UNSENT)
