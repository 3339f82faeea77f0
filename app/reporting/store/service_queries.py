"""What dashboard, alerts and /metrics read from the database: bounded, indexed reads, whatever is waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, literal_column, select, text, union_all

from app.access.store.access_tables import budget_use
from app.access.store.clients import list_clients
from app.billing.domain.budget import Spent
from app.reporting.domain.recent_calls import EndedCall
from app.tasks.domain.task import Hold, Status
from app.tasks.store.feeding import queues_to_feed
from app.tasks.store.tables import FED, QUEUED, RUNNING, UNFED, attempt, client, task, task_content

MOST_QUEUES = 500  # of which rows are counted in one look
MOST_RUNNING = 50_000  # running rows looked at
_FAILED = (Status.FAILED, Status.EXPIRED)


@dataclass(frozen=True, slots=True)
class RunningCalls:
    """Calls of one client in flight, by what they go out; `young` began in the last 60 s."""

    client_id: str
    model: str
    account: str
    key: str
    upstream_model: str
    calls: int
    young: int


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A task that failed or expired."""

    seq: int
    id: str
    client_id: str
    batch_id: str | None
    model: str
    status: str
    error_code: str | None
    error_message: str | None
    finished_at: float | None
    replaced_by: str | None


@dataclass(frozen=True, slots=True)
class LatestRow:
    """A task in a list."""

    id: str
    client_id: str
    model: str
    status: str
    created_at: float
    finished_at: float | None
    attempts: int
    error_code: str | None


def waiting_by_client(conn: Connection, most: int) -> dict[str, int]:
    """How many tasks of each client wait, for whatever reason: each counted up to `most`."""
    # As a range, not as an equality: in the order asked for, no other index than the one for listing will do.
    mine = (task.c.client_id == client.c.id) & text("task.status BETWEEN 'queued' AND 'queued'")
    rows: Select[Any] = select(literal_column("1").label("one")).where(mine).correlate(client)
    rows = rows.order_by(task.c.client_id, task.c.status, task.c.seq).limit(most)
    count = select(func.count()).select_from(rows.subquery("waiting")).scalar_subquery()
    found = conn.execute(select(client.c.id, count))
    return {row[0]: row[1] for row in found if row[1]}


def unfed_by_queue(conn: Connection, most: int) -> dict[str, int]:
    """How many rows wait in the database for a place in each backlog queue: each counted up to `most`."""
    found: dict[str, int] = {}
    for queue in queues_to_feed(conn)[:MOST_QUEUES]:
        rows: Select[Any] = select(literal_column("1").label("one")).where(task.c.queue == queue, text(UNFED))
        rows = rows.order_by(task.c.queue, task.c.front, task.c.step, task.c.due, task.c.seq).limit(most)
        found[queue] = conn.execute(select(func.count()).select_from(rows.subquery())).scalar_one()
    return found


def fed_by_queue(conn: Connection, most: int) -> dict[str, int]:
    """Rows whose messages are in Redis, or should be, by queue: the oldest `most` of them. For when Redis is away."""
    rows = select(task.c.queue).where(text(FED)).order_by(task.c.fed_at, task.c.seq).limit(most).subquery()
    found = conn.execute(select(rows.c.queue, func.count()).group_by(rows.c.queue))
    return {row[0]: row[1] for row in found}


def running(conn: Connection, since: float) -> list[RunningCalls]:
    """Calls in flight; there are as many as workers hold, at most."""
    columns = (task.c.client_id, task.c.model, task.c.account, task.c.key, task.c.upstream_model)
    rows = select(*columns, task.c.claimed_at).where(text(RUNNING)).limit(MOST_RUNNING).subquery()
    groups = [rows.c[column.name] for column in columns]
    young = func.count().filter(rows.c.claimed_at >= since)
    found = conn.execute(select(*groups, func.count(), young).group_by(*groups))
    return [
        RunningCalls(row[0], row[1], row[2] or "", row[3] or "", row[4] or "", row[5], row[6])
        for row in found
    ]


def last_calls(conn: Connection, after_seq: int, limit: int) -> list[tuple[int, EndedCall]]:
    """The newest ended calls with their sequence numbers, beyond `after_seq`; oldest first."""
    tokens = func.coalesce(attempt.c.prompt_tokens, 0) + func.coalesce(attempt.c.completion_tokens, 0)
    columns = (attempt.c.client_id, attempt.c.key, attempt.c.account, attempt.c.upstream_model)
    times = (attempt.c.outcome, attempt.c.started_at, attempt.c.finished_at, tokens)
    found = select(attempt.c.seq, *columns, *times).where(attempt.c.seq > after_seq)
    rows = conn.execute(found.order_by(attempt.c.seq.desc()).limit(limit)).all()
    return [(row[0], EndedCall(*row[1:])) for row in reversed(rows)]


def recent_failures(conn: Connection, client_id: str | None, limit: int) -> list[FailedRow]:
    """The newest tasks (by submission) that failed or expired, of one client or of the 50 with the newest ones."""
    owners = [client_id] if client_id is not None else _who_failed(conn)
    if not owners:
        return []
    ranges = [_failed(owner, status, limit) for owner in owners for status in _FAILED]
    numbers = union_all(*(select(part.subquery().c.seq) for part in ranges)).subquery()
    newest = select(numbers.c.seq).order_by(numbers.c.seq.desc()).limit(limit)
    columns = [task.c[name] for name in FailedRow.__dataclass_fields__]
    rows = conn.execute(select(*columns).where(task.c.seq.in_(newest)).order_by(task.c.seq.desc()))
    return [FailedRow(*row) for row in rows]


def latest_tasks(conn: Connection, client_id: str | None, limit: int) -> list[LatestRow]:
    """The tasks submitted last, of one client or of all; newest first."""
    columns = [task.c[name] for name in LatestRow.__dataclass_fields__]
    found = select(*columns).order_by(task.c.seq.desc()).limit(limit)
    if client_id is not None:
        ranges = [_in_state(client_id, status).limit(limit) for status in Status]
        numbers = union_all(*(select(part.subquery().c.seq) for part in ranges)).subquery()
        found = found.where(task.c.seq.in_(select(numbers.c.seq).order_by(numbers.c.seq.desc()).limit(limit)))
    return [LatestRow(*row) for row in conn.execute(found)]


def tasks_of_batch(conn: Connection, batch_id: str, status: str | None, limit: int) -> list[LatestRow]:
    """The first tasks of a batch, in the order of its input."""
    columns = [task.c[name] for name in LatestRow.__dataclass_fields__]
    found = select(*columns).where(task.c.batch_id == batch_id).order_by(task.c.batch_index).limit(limit)
    if status is not None:
        found = found.where(task.c.status == status)
    return [LatestRow(*row) for row in conn.execute(found)]


def failures_of_batch(conn: Connection, batch_id: str, limit: int) -> list[FailedRow]:
    """The first tasks of a batch that failed or expired."""
    columns = [task.c[name] for name in FailedRow.__dataclass_fields__]
    found = select(*columns).where(task.c.batch_id == batch_id, task.c.status.in_(_FAILED))
    return [FailedRow(*row) for row in conn.execute(found.order_by(task.c.batch_index).limit(limit))]


def _who_failed(conn: Connection) -> Sequence[str]:
    """Clients by their newest failures: one step in the index for each client and state."""
    newest = [_newest(status) for status in _FAILED]
    latest = [select(client.c.id, value.label("seq")) for value in newest]
    both = union_all(*latest).subquery()
    ranked = select(both.c.id).where(both.c.seq.is_not(None)).group_by(both.c.id)
    return list(conn.execute(ranked.order_by(func.max(both.c.seq).desc()).limit(50)).scalars())


def _newest(status: Status) -> Any:
    one = select(task.c.seq).where(task.c.client_id == client.c.id, task.c.status == status.value)
    return one.order_by(task.c.seq.desc()).limit(1).correlate(client).scalar_subquery()


def _failed(client_id: str, status: Status, limit: int) -> Select[Any]:
    return _in_state(client_id, status).limit(limit)


def _in_state(client_id: str, status: Status) -> Select[Any]:
    """One range of ix_task_client_id_status_seq, newest first."""
    mine = select(task.c.seq).where(task.c.client_id == client_id, task.c.status == status.value)
    return mine.order_by(task.c.seq.desc())


def content_of(conn: Connection, seq: int) -> Any:
    """A task's `request` and what it was `replaced_by`."""
    found = select(task_content.c.request, task.c.replaced_by)
    return conn.execute(found.join(task, task.c.seq == task_content.c.seq).where(task.c.seq == seq)).one()


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
    """Calls recorded after this one, in order: seq, outcome, released_at, upstream_model, started_at, finished_at."""
    columns = (attempt.c.seq, attempt.c.outcome, attempt.c.released_at, attempt.c.upstream_model)
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
