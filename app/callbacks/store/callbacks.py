"""The states of a callback row, each transition one compare-and-set.

pending -> delivering (`claim_callback`) -> delivered | pending | failed (`record_delivery`)
delivering -> pending (`revive`, if its worker is gone)

A claim's token is the pair of id and try: each claim starts a try of its own, so no worker can record another's.

`ring_at` is when a pending row should next be published: at its own instant, then again some time after each message,
in case that was lost. Due rows are read host by host, so that a receiver with a long queue delays no other; rows whose
host is not known yet have the host "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    TextClause,
    Update,
    and_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from app.tasks.domain.task import CallbackState
from app.tasks.store.tables import DELIVERING, PENDING, callback, client, delivery


def due_hosts(conn: Connection, now: float, after: str, limit: int) -> tuple[list[str], str | None]:
    """Hosts with something due: first "" (never tried), then those after `after` in order.

    Looks at `limit` hosts with pending rows. Also returns the last one looked at, None at the end.
    """
    first = select(func.min(callback.c.host).label("host")).where(text(PENDING), callback.c.host > after)
    hosts = first.cte("hosts", recursive=True)
    following = (
        select(func.min(callback.c.host))
        .where(text(PENDING), callback.c.host > hosts.c.host)
        .scalar_subquery()
    )
    hosts = hosts.union_all(select(following).where(hosts.c.host.is_not(None)))
    due = exists().where(and_(callback.c.host == hosts.c.host, text(PENDING), callback.c.ring_at <= now))
    seen = conn.execute(select(hosts.c.host, due).where(hosts.c.host.is_not(None)).limit(limit)).all()
    new = select(callback.c.seq).where(text(PENDING), callback.c.host == "", callback.c.ring_at <= now)
    first_of_all = [""] if conn.execute(new.limit(1)).first() else []
    found = first_of_all + [host for host, is_due in seen if is_due]
    return found, seen[-1][0] if len(seen) == limit else None


def ring_due(
    conn: Connection, hosts: Sequence[str], now: float, each: int, again_at: float
) -> dict[str, int]:
    """Take up to `each` due rows of every host, not to be published again before `again_at`.

    Returns their ids in order, each with the index of its host in `hosts`.
    """
    notified: dict[str, int] = {}
    for place, host in enumerate(hosts):
        due = and_(text(PENDING), callback.c.host == host, callback.c.ring_at <= now)
        # Joined by number alone, so that PostgreSQL does not compare every pending row with every chosen one.
        first = select(callback.c.seq).where(due).order_by(callback.c.ring_at, callback.c.seq).limit(each)
        chosen = first.with_for_update(skip_locked=True).cte("chosen")
        statement = (
            update(callback)
            .where(callback.c.seq == chosen.c.seq)
            .values(ring_at=again_at)
            .returning(callback.c.id)
        )
        notified.update(dict.fromkeys(conn.execute(statement).scalars(), place))
    return notified


def put_off(conn: Connection, callback_id: str, host: str, until: float) -> bool:
    """Postpone a pending callback without using up a try, as while its host is paused."""
    statement = (
        update(callback).where(callback.c.id == callback_id, text(PENDING)).values(host=host, ring_at=until)
    )
    return conn.execute(statement).rowcount > 0


def unring(conn: Connection, ids: Sequence[str], at: float) -> None:
    """Make these due for publishing again from `at` on: their messages could not be published."""
    if ids:
        conn.execute(update(callback).where(callback.c.id.in_(ids), text(PENDING)).values(ring_at=at))


CLOCKS_DIFFER_SECONDS = 1.0  # a row may be claimed this early, as machines' clocks differ


_LOST = "the worker stopped before the answer was recorded"


@dataclass(frozen=True, slots=True)
class ClaimedCallback:
    """A callback claimed for one try."""

    id: str  # evt_..., the `webhook-id`
    client_id: str
    task_id: str | None
    batch_id: str | None
    type: str
    url: str
    tries: int  # of all rounds, this one included: the delivery's number
    tries_before: int  # those before its last replay
    created_at: float
    claimed_at: float
    secret: str
    previous_secret: str | None  # signs as well until `previous_until`
    previous_until: float | None
    headers: dict[str, Any]  # the client's own


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """The result of one try, and the callback's next state."""

    callback_id: str
    number: int  # the claim's `tries`
    host: str  # "host:port"
    state: CallbackState  # DELIVERED, PENDING or FAILED
    started_at: float
    finished_at: float
    status_code: int | None = None
    error: str | None = None
    next_at: float | None = None  # when PENDING


def due_url(conn: Connection, callback_id: str, now: float) -> str | None:
    """The URL of a callback that may be claimed now; None if another worker was first or it is not due."""
    values = {"which": callback_id, "latest": now + CLOCKS_DIFFER_SECONDS}
    url: str | None = conn.execute(_DUE_URL, values).scalar()
    return url


def claim_callback(conn: Connection, callback_id: str, claimed_by: str, now: float) -> ClaimedCallback | None:
    """pending -> delivering, with one more try. None if another worker was first or it is not due."""
    values = {"which": callback_id, "latest": now + CLOCKS_DIFFER_SECONDS, "by": claimed_by, "at": now}
    row = conn.execute(_CLAIM, values).first()
    if row is None:
        return None
    owner = conn.execute(_OWNER, {"which": row.client_id}).one()
    headers = orjson.loads(owner.callback_headers) if owner.callback_headers else {}
    return ClaimedCallback(
        **row._asdict(),
        claimed_at=now,
        secret=owner.callback_secret,
        previous_secret=owner.callback_secret_previous,
        previous_until=owner.callback_secret_until,
        headers=headers if isinstance(headers, dict) else {},
    )


def record_delivery(conn: Connection, record: DeliveryRecord) -> bool:
    """delivering -> delivered, pending or failed, with a row in the delivery log. False: the claim is no longer ours.

    A success is accepted even after `revive`, unless another worker has claimed the callback since.
    """
    ended = record.state is not CallbackState.PENDING
    values = {
        "which": record.callback_id,
        "try": record.number,
        "to": record.state.value,
        "at_host": record.host,
        "error": record.error,
        "again_at": record.next_at,
        "ended_at": record.finished_at if ended else None,
    }
    delivered = record.state is CallbackState.DELIVERED
    if conn.execute(_DELIVERED if delivered else _NOT_DELIVERED, values).rowcount == 0:
        return False
    _log(conn, record)
    return True


# Built once: building a statement costs more than running it.
_MAY_BE_CLAIMED = (
    callback.c.id == bindparam("which"),
    text(PENDING),
    callback.c.next_at <= bindparam("latest"),
)


_DUE_URL = select(callback.c.url).where(*_MAY_BE_CLAIMED)


_CLAIM = (
    update(callback)
    .where(*_MAY_BE_CLAIMED)
    .values(
        status=CallbackState.DELIVERING.value,
        tries=callback.c.tries + 1,
        claimed_by=bindparam("by"),
        claimed_at=bindparam("at"),
    )
    .returning(
        callback.c.id,
        callback.c.client_id,
        callback.c.task_id,
        callback.c.batch_id,
        callback.c.type,
        callback.c.url,
        callback.c.tries,
        callback.c.tries_before,
        callback.c.created_at,
    )
)


_OWNER = select(
    client.c.callback_secret,
    client.c.callback_secret_previous,
    client.c.callback_secret_until,
    client.c.callback_headers,
).where(client.c.id == bindparam("which"))


def _recording(*held: TextClause | ColumnElement[bool]) -> Update:
    again_at: ColumnElement[float] = bindparam("again_at", type_=Double())
    return (
        update(callback)
        .where(callback.c.id == bindparam("which"), callback.c.tries == bindparam("try"), *held)
        .values(
            status=bindparam("to"),
            host=bindparam("at_host"),
            claimed_by=None,
            claimed_at=None,
            last_error=bindparam("error"),
            next_at=func.coalesce(again_at, callback.c.next_at),
            ring_at=func.coalesce(again_at, callback.c.ring_at),
            finished_at=bindparam("ended_at"),
        )
    )


_NOT_DELIVERED = _recording(text(DELIVERING))


_DELIVERED = _recording(or_(text(DELIVERING), text(PENDING)))


def _log(conn: Connection, record: DeliveryRecord) -> None:
    values = {
        "callback_id": record.callback_id,
        "number": record.number,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "status_code": record.status_code,
        "error": record.error,
    }
    conn.execute(_LOG, values)


_LOG = insert(delivery).inline()  # do not fetch its number


def any_abandoned(conn: Connection, before: float, now: float) -> bool:
    """Whether `revive` would find something."""
    return conn.execute(select(callback.c.seq).where(*_abandoned(before, now)).limit(1)).first() is not None


def revive(conn: Connection, before: float, now: float, limit: int = 500) -> list[str]:
    """delivering -> pending, due now, for claims older than `before`; returns the ids.

    So are claims from the future: a clock that was set back must not hold them. Their tries are logged as lost. Whether
    they were delivered is unknown, so they are sent again under the same id.
    """
    found = select(callback.c.id, callback.c.tries, callback.c.claimed_at).where(*_abandoned(before, now))
    lost = conn.execute(found.order_by(callback.c.claimed_at).limit(limit)).all()
    revived = []
    for row in lost:
        statement = (
            update(callback)
            .where(callback.c.id == row.id, callback.c.tries == row.tries, text(DELIVERING))
            .values(status="pending", next_at=now, ring_at=now, last_error=_LOST, claimed_by=None)
        )
        if conn.execute(statement).rowcount:
            _log_lost(conn, row.id, row.tries, row.claimed_at, now)
            revived.append(row.id)
    return revived


def _abandoned(before: float, now: float) -> tuple[TextClause | ColumnElement[bool], ...]:
    ahead = callback.c.claimed_at > now + (now - before)
    return text(DELIVERING), or_(callback.c.claimed_at < before, ahead)


def _log_lost(conn: Connection, callback_id: str, number: int, started_at: float, now: float) -> None:
    pending = CallbackState.PENDING
    _log(conn, DeliveryRecord(callback_id, number, "", pending, started_at, now, error=_LOST))
