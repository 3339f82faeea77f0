"""Which request waits for which task, in the database, so that a repeat finds the task whose connection was lost.

A process beats while it holds connections or takes files in. When it dies, the leader frees its calls; so does a repeat
that looks for one of them, in case the leader died with it. Taking a task over is a compare-and-set: of two repeats one
gets it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, exists, insert, null, or_, select, text, tuple_, update

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.dialects import insert_or
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.heartbeats import HeartbeatMonitor
from app.platform.ports import Clock
from app.tasks.store.tables import ABANDONED_CALLS, holder, task, waiting_call


def beat(conn: Connection, holder_id: str, now: float) -> None:
    """Record that a process is alive; the first beat registers it."""
    statement = insert_or(conn, holder).values(id=holder_id, beat=0, beat_at=now)
    again = {"beat": holder.c.beat + 1, "beat_at": now}
    conn.execute(statement.on_conflict_do_update(index_elements=["id"], set_=again))


def beats(conn: Connection) -> dict[str, int]:
    """The beat of each process on record."""
    return {row.id: row.beat for row in conn.execute(select(holder.c.id, holder.c.beat))}


def touch(conn: Connection, holder_ids: Collection[str]) -> None:
    """Rewrite their rows unchanged: this fails whenever they could not beat either."""
    conn.execute(update(holder).where(holder.c.id.in_(holder_ids)).values(beat=holder.c.beat))


def drop(conn: Connection, holder_ids: Collection[str]) -> None:
    """Remove processes."""
    if holder_ids:
        conn.execute(delete(holder).where(holder.c.id.in_(holder_ids)))


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A request that waits for a task. `connection` identifies the request, `holder` its process."""

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


def attach(
    conn: Connection,
    client_id: str,
    fingerprint: str,
    connection: str,
    holder_id: str,
    *,
    shared: bool = False,
) -> str | None:
    """Take over the oldest task of this request whose connection is gone. Returns its id, or None.

    With `shared`, also one that has not ended and whose connection is still there.
    """
    call = waiting_call.c
    runs = exists().where(task.c.id == call.task_id, task.c.finished_at.is_(None))
    free = or_(call.connection.is_(None), runs) if shared else call.connection.is_(None)
    found = select(call.task_id, call.connection).where(
        call.client_id == client_id, call.fingerprint == fingerprint, free
    )
    oldest = found.order_by(call.created_at).limit(1).with_for_update(skip_locked=True, of=waiting_call)
    row = conn.execute(oldest).first()
    if row is None:
        return None
    still = (call.task_id == row.task_id) & call.connection.is_not_distinct_from(row.connection)
    mine = {"connection": connection, "holder": holder_id, "abandon_at": None}
    taken = conn.execute(update(waiting_call).where(still).values(mine)).rowcount
    return str(row.task_id) if taken else None


def any_free(conn: Connection, client_id: str, fingerprint: str) -> bool:
    """Whether `attach` would find a task whose connection is gone."""
    mine = (waiting_call.c.client_id == client_id) & (waiting_call.c.fingerprint == fingerprint)
    return (
        conn.execute(select(1).where(mine, waiting_call.c.connection.is_(None)).limit(1)).first() is not None
    )


def holders_of(conn: Connection, client_id: str, fingerprint: str) -> dict[str | None, int | None]:
    """The processes that hold requests of this fingerprint, and their beats.

    Holder None: the connection is gone; beat None: the process is no longer registered.
    """
    mine = (waiting_call.c.client_id == client_id) & (waiting_call.c.fingerprint == fingerprint)
    held = select(waiting_call.c.holder, holder.c.beat).distinct().where(mine)
    rows = conn.execute(held.outerjoin(holder, holder.c.id == waiting_call.c.holder))
    return {row.holder: row.beat for row in rows}


def free_of_dead(
    conn: Connection, client_id: str, fingerprint: str, dead: Collection[str], abandon_at: float
) -> None:
    """Free the requests of this fingerprint that dead processes hold."""
    mine = (waiting_call.c.client_id == client_id) & (waiting_call.c.fingerprint == fingerprint)
    gone = {"connection": null(), "holder": null(), "abandon_at": abandon_at}
    conn.execute(update(waiting_call).where(mine, waiting_call.c.holder.in_(dead)).values(gone))


def free(conn: Connection, task_id: str, connection: str, abandon_at: float) -> bool:
    """Record that a connection is gone: a repeat may attach until `abandon_at`. False: it was no longer waiting."""
    mine = (waiting_call.c.task_id == task_id) & (waiting_call.c.connection == connection)
    gone = {"connection": None, "holder": None, "abandon_at": abandon_at}
    return bool(conn.execute(update(waiting_call).where(mine).values(gone)).rowcount)


def forget(conn: Connection, calls: Collection[tuple[str, str]]) -> None:
    """Delete answered calls, given as (task id, connection)."""
    if calls:
        pair = tuple_(waiting_call.c.task_id, waiting_call.c.connection)
        conn.execute(delete(waiting_call).where(pair.in_(calls)))


def free_orphans(conn: Connection, abandon_at: float) -> int:
    """Free the calls of processes that are no longer registered; returns how many."""
    alive = exists().where(holder.c.id == waiting_call.c.holder)
    orphan = waiting_call.c.connection.is_not(None) & ~alive
    gone = {"connection": null(), "holder": null(), "abandon_at": abandon_at}
    return conn.execute(update(waiting_call).where(orphan).values(gone)).rowcount


def abandoned(conn: Connection, now: float, limit: int) -> dict[str, bool]:
    """Tasks that were without a connection for too long, each with whether it has a callback."""
    due = select(waiting_call.c.task_id, task.c.callback_url).outerjoin(
        task, task.c.id == waiting_call.c.task_id
    )
    due = due.where(text(ABANDONED_CALLS), waiting_call.c.abandon_at <= now)
    rows = conn.execute(due.order_by(waiting_call.c.abandon_at).limit(limit))
    return {row.task_id: row.callback_url is not None for row in rows}


def drop_abandoned(conn: Connection, task_id: str) -> bool:
    """Delete a call that nobody took over. False: a repeat was quicker."""
    free_one = (waiting_call.c.task_id == task_id) & waiting_call.c.connection.is_(None)
    return bool(conn.execute(delete(waiting_call).where(free_one)).rowcount)


BEAT_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.25
GRACE_SECONDS = 10.0  # in which a client that retries has come again; the OpenAI clients wait at most 8
_TURNS = 64
_FIND_SECONDS = 20.0  # how long a repeat looks for its task: enough to detect a dead process


@dataclass(slots=True)
class _HeldTask:
    """A task, and how many connections of this process wait for it: more than one, if they share it."""

    call: WaitingCall
    connections: int = 0


class HoldConnections:
    """The waiting connections of one process.

    Used by all request threads, and by one background thread that beats. The lock guards `_answered`, `_held` and the
    start; `_turns` let one of several equal calls look and make its task before the next looks.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        grace: float = GRACE_SECONDS,
        look_every: float = LOOK_EVERY_SECONDS,
    ) -> None:
        """`look_every`: seconds between two looks for the task of a repeat."""
        self.id = f"holder_{uuid.uuid4().hex}"
        self._database = database
        self._clock = clock
        self._grace = grace
        self._look_every = look_every
        self._lock = threading.Lock()
        self._loop = BackgroundLoop(
            "hold-connections",
            self.beat,
            every=BEAT_SECONDS,
            at_once=False,
            backoff=(BEAT_SECONDS, BEAT_SECONDS),
        )
        self._begun = False
        self._answered: list[tuple[str, str]] = []
        self._held: dict[str, _HeldTask] = {}  # by task
        self._turns = tuple(threading.Lock() for _ in range(_TURNS))

    def turn(self, fingerprint: str) -> threading.Lock:
        """The lock that equal calls take while they find or make their task."""
        return self._turns[hash(fingerprint) % _TURNS]

    def hold(self, call: WaitingCall) -> WaitingCall:
        """Count one more connection of this process that waits for the task."""
        with self._lock:
            held = self._held.setdefault(call.task_id, _HeldTask(call))
            held.connections += 1
            return held.call

    def _leave(self, call: WaitingCall) -> bool:
        """Count one less; returns whether none is left."""
        with self._lock:
            held = self._held.get(call.task_id)
            if held is None:
                return True
            held.connections -= 1
            if held.connections <= 0:
                del self._held[call.task_id]
            return held.connections <= 0

    def new_call(self, task_id: str, client_id: str, fingerprint: str) -> WaitingCall:
        """A call to store with its task. Raises DatabaseUnreachable."""
        self.start()
        now = self._clock.now()
        return WaitingCall(task_id, client_id, fingerprint, uuid.uuid4().hex, self.id, now)

    def find_freed(self, client_id: str, fingerprint: str) -> WaitingCall | None:
        """Take over a task of an equal request whose connection is gone; None if there is none.

        Nobody else gets its answer, so that this is right for any request. Raises DatabaseUnreachable.
        """
        if not self._database.read(lambda conn: any_free(conn, client_id, fingerprint)):
            return None
        return self._attach(client_id, fingerprint)

    def share(self, client_id: str, fingerprint: str) -> WaitingCall | None:
        """Join a task that an equal request waits for; None if there is none. Raises DatabaseUnreachable."""
        with self._lock:
            wanted = (client_id, fingerprint)
            here = next(
                (h for h in self._held.values() if (h.call.client_id, h.call.fingerprint) == wanted), None
            )
            if here is not None:
                here.connections += 1
                return here.call
        return self._attach(client_id, fingerprint, shared=True)

    def _attach(self, client_id: str, fingerprint: str, *, shared: bool = False) -> WaitingCall | None:
        self.start()
        connection = uuid.uuid4().hex
        task_id = self._database.write(
            lambda conn: attach(conn, client_id, fingerprint, connection, self.id, shared=shared)
        )
        if task_id is None:
            return None
        return self.hold(WaitingCall(task_id, client_id, fingerprint, connection, self.id, self._clock.now()))

    def find(self, client_id: str, fingerprint: str) -> WaitingCall | None:
        """Take over the task that an earlier try of this request made; None if there is none.

        While an earlier try is recorded with a connection, wait: its end may be about to be recorded, or its process
        may be dead. A connection that stays (some proxies keep theirs) shares its task. Raises DatabaseUnreachable.
        """
        self.start()
        until = self._clock.monotonic() + _FIND_SECONDS
        silence = HeartbeatMonitor()
        while True:
            found = self._attach(client_id, fingerprint)
            if found is not None:
                return found
            held = self._database.read(lambda conn: holders_of(conn, client_id, fingerprint))
            at = self._clock.monotonic()
            if not held:
                return None
            if at >= until:
                return self.share(client_id, fingerprint)
            dead = _dead({name: beat for name, beat in held.items() if name and name != self.id}, silence, at)
            if dead:
                self._free(client_id, fingerprint, dead)
            elif self._loop.wait(self._look_every):
                return None

    def _free(self, client_id: str, fingerprint: str, dead: list[str]) -> None:
        abandon_at = self._clock.now() + GRACE_SECONDS
        self._database.write(lambda conn: free_of_dead(conn, client_id, fingerprint, dead, abandon_at))

    def let_go(self, call: WaitingCall, *, repeats: bool) -> None:
        """The connection is gone. A task that nobody takes over is cancelled; at once, if no repeat could help."""
        if not self._leave(call):
            return
        abandon_at = self._clock.now() + (self._grace if repeats else 0.0)
        try:
            self._database.write(lambda conn: free(conn, call.task_id, call.connection, abandon_at))
        except DatabaseUnreachable:
            return

    def answered(self, call: WaitingCall) -> None:
        """The answer was sent, so no repeat will come. Recorded with the next beat."""
        self._leave(call)
        with self._lock:
            self._answered.append((call.task_id, call.connection))

    def start(self) -> None:
        """Register this process and start the beat, once. Raises DatabaseUnreachable."""
        with self._lock:
            if self._begun or self._loop.stopping:
                return
            self._database.write(lambda conn: beat(conn, self.id, self._clock.now()))
            self._begun = True
            self._loop.start()

    def close(self) -> None:
        """Unregister: calls that were not answered are free from now on."""
        self._loop.close()
        if self._begun:
            self.beat(last=True)

    def beat(self, *, last: bool = False) -> None:
        """Record that this process is alive, and delete answered calls. Retried later if the database is away."""
        with self._lock:
            answered, self._answered = self._answered, []

        def say(conn: Connection) -> None:
            forget(conn, answered)
            if last:
                drop(conn, [self.id])
            else:
                beat(conn, self.id, self._clock.now())

        try:
            self._database.write(say)
        except DatabaseUnreachable:
            with self._lock:
                self._answered += answered


def _dead(others: Mapping[str, int | None], silence: HeartbeatMonitor, at: float) -> list[str]:
    """Which of these processes are dead: without a beat for too long, or no longer registered."""
    gone = [name for name, beat in others.items() if beat is None]
    return [*gone, *silence.look({name: beat for name, beat in others.items() if beat is not None}, at)]
