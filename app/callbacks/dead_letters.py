"""Callbacks that were given up: list them, and send them again, one or all since an instant.

failed -> pending begins a new round of tries under the same `webhook-id`, so that a receiver that did take it
recognizes it. No message is needed: the feeder finds what is due within a second; `notifier` makes it immediate.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, TextClause, Update, select, text, update

from app.callbacks.domain.callback import CallbackNotifier
from app.platform.database import Database
from app.platform.ports import Clock
from app.tasks.store.tables import DEAD_LETTER, callback


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A callback that is no longer tried."""

    seq: int
    id: str
    client_id: str
    task_id: str | None
    batch_id: str | None
    type: str
    url: str
    tries: int
    reason: str | None
    created_at: float
    failed_at: float


_COLUMNS = (
    callback.c.seq,
    callback.c.id,
    callback.c.client_id,
    callback.c.task_id,
    callback.c.batch_id,
    callback.c.type,
    callback.c.url,
    callback.c.tries,
    callback.c.last_error,
    callback.c.created_at,
    callback.c.finished_at,
)


def list_dead(
    conn: Connection, client_id: str | None, *, before_seq: int | None = None, limit: int = 100
) -> list[DeadLetterRow]:
    """Dead letters of a client (None: of all), newest first, those before `before_seq`."""
    statement = select(*_COLUMNS).where(*_dead_of(client_id))
    if before_seq is not None:
        statement = statement.where(callback.c.seq < before_seq)
    rows = conn.execute(statement.order_by(callback.c.seq.desc()).limit(limit))
    return [DeadLetterRow(*row) for row in rows]


def place_of(conn: Connection, client_id: str | None, callback_id: str) -> int | None:
    """The `seq` of a callback, whether dead or replayed since."""
    found = select(callback.c.seq).where(callback.c.id == callback_id)
    if client_id is not None:
        found = found.where(callback.c.client_id == client_id)
    return conn.execute(found).scalar()


def replay(conn: Connection, client_id: str | None, callback_id: str, now: float) -> bool:
    """Begin a new round for one dead letter. False: this client has no dead letter of that id."""
    return bool(
        conn.execute(_revived(now).where(*_dead_of(client_id), callback.c.id == callback_id)).rowcount
    )


def replay_since(conn: Connection, client_id: str | None, since: float, now: float, limit: int) -> int:
    """Begin a new round for up to `limit` callbacks given up since an instant; returns how many."""
    given_up = (*_dead_of(client_id), callback.c.finished_at >= since)
    first = select(callback.c.seq).where(*given_up).order_by(callback.c.seq).limit(limit)
    chosen = first.with_for_update(skip_locked=True).cte("chosen")
    revived = _revived(now).where(callback.c.seq == chosen.c.seq).returning(callback.c.seq)
    return len(conn.execute(revived).all())


def _revived(now: float) -> Update:
    return update(callback).values(
        status="pending",
        tries_before=callback.c.tries,
        next_at=now,
        ring_at=now,
        finished_at=None,
        claimed_by=None,
        claimed_at=None,
    )


def _dead_of(client_id: str | None) -> tuple[TextClause | ColumnElement[bool], ...]:
    dead = text(DEAD_LETTER)
    return (dead,) if client_id is None else (dead, callback.c.client_id == client_id)


CHUNK = 1000  # dead letters of one transaction


class DeadLetters:
    """Dead letters of one client, or of all for an operator (`client_id` None)."""

    def __init__(self, database: Database, notifier: CallbackNotifier, clock: Clock) -> None:
        self._database = database
        self._notifier = notifier
        self._clock = clock

    def list_dead(
        self, client_id: str | None, *, before_seq: int | None = None, limit: int = 100
    ) -> list[DeadLetterRow]:
        """Newest first; for the next page pass the last one's `seq` as `before_seq`."""
        return self._database.read(
            lambda conn: list_dead(conn, client_id, before_seq=before_seq, limit=limit)
        )

    def place(self, client_id: str | None, callback_id: str) -> int | None:
        """The `seq` of a callback, from which to continue the list; None: this client has no such callback."""
        return self._database.read(lambda conn: place_of(conn, client_id, callback_id))

    def replay(self, client_id: str | None, callback_id: str) -> bool:
        """Send one again. False: this client has no such dead letter."""
        now = self._clock.now()
        found = self._database.write(lambda conn: replay(conn, client_id, callback_id, now))
        if found:
            self._notifier.notify([callback_id])
        return found

    def replay_since(self, client_id: str | None, since: float) -> int:
        """Send again all that were given up since an instant (Unix seconds); returns how many."""
        now, replayed = self._clock.now(), 0
        while count := self._database.write(lambda conn: replay_since(conn, client_id, since, now, CHUNK)):
            replayed += count
        return replayed
