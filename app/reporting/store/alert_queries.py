"""What alerts and /metrics ask of the database: bounded reads by index, whatever waits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, text

from app.access.store.access_tables import budget_use
from app.access.store.clients import list_clients
from app.billing.domain.budget import Spent
from app.tasks.domain.task import Hold
from app.tasks.store.feeding import queues_to_feed
from app.tasks.store.tables import FED, QUEUED, UNFED, attempt, task

_NEAREST = 500  # tasks nearest to their deadline that are looked at
_OLDEST = 50  # of those in Redis, by when they were fed
_QUEUES = 200

Wait = tuple[float, float, float, int]  # created_at, available_at, expires_at, attempts
_COLUMNS = (task.c.created_at, task.c.available_at, task.c.expires_at, task.c.attempts)


def waits(conn: Connection, now: float) -> list[Wait]:
    """Tasks that could run: the nearest to their deadlines, and the first of each queue."""
    late = select(*_COLUMNS, task.c.hold).where(text(QUEUED)).order_by(task.c.expires_at).limit(_NEAREST)
    found = [
        tuple(row[:4]) for row in conn.execute(late) if row.hold == Hold.NONE and row.available_at <= now
    ]
    fed = select(*_COLUMNS).where(text(FED)).order_by(task.c.fed_at, task.c.seq).limit(_OLDEST)
    found += [tuple(row) for row in conn.execute(fed)]
    for queue in queues_to_feed(conn)[:_QUEUES]:
        first = select(*_COLUMNS).where(task.c.queue == queue, text(UNFED))
        first = first.order_by(task.c.queue, task.c.front, task.c.step, task.c.due, task.c.seq).limit(1)
        found += [tuple(row) for row in conn.execute(first)]
    return found


def work_waits(conn: Connection) -> bool:
    """Whether any task could run now."""
    fed = select(task.c.seq).where(text(FED)).order_by(task.c.fed_at, task.c.seq).limit(1)
    return conn.execute(fed).first() is not None or bool(queues_to_feed(conn))


def calls_after(conn: Connection, seq: int, most: int) -> list[Any]:
    """Calls recorded after this one, in order: seq, outcome, released_at, started_at, finished_at."""
    columns = (attempt.c.seq, attempt.c.outcome, attempt.c.released_at)
    times = (attempt.c.started_at, attempt.c.finished_at)
    found = select(*columns, *times).where(attempt.c.seq > seq).order_by(attempt.c.seq).limit(most)
    return list(conn.execute(found))


def last_call(conn: Connection) -> int:
    """The number of the newest call; 0 when there is none."""
    newest = select(attempt.c.seq).order_by(attempt.c.seq.desc()).limit(1)
    return int(conn.execute(newest).scalar() or 0)


def spent_in(conn: Connection, periods: tuple[str, ...]) -> dict[str, dict[str, Spent]]:
    """What was used and reserved in these periods, by client."""
    found: dict[str, dict[str, Spent]] = {}
    for row in conn.execute(select(budget_use).where(budget_use.c.period.in_(periods))):
        found.setdefault(row.client_id, {})[row.period] = Spent(row.tokens, row.picos)
    return found


def settings_of_clients(conn: Connection) -> dict[str, str]:
    """Settings as they are stored, of the clients that have any."""
    return {row.id: row.settings for row in list_clients(conn) if row.settings}
