"""Which callbacks are due, host by host, so that a receiver with a long queue delays no other.

`ring_at` is when a pending row should next be published: its own instant at first, then again some time after
each ring, in case a message was lost. Rows whose host is not known yet stand under "".
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, exists, func, select, text, update

from app.tasks.store.tables import PENDING, callback


def due_hosts(conn: Connection, now: float, after: str, limit: int) -> tuple[list[str], str | None]:
    """Hosts of which something is due: first "" (not tried yet), then those beyond `after` in order.

    Looks at `limit` hosts with pending rows. Gives back the last one looked at as well, None at the end.
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
    """Take up to `each` due rows of every host, not to be rung again before `again_at`.

    Gives back their ids in order, and for each its host's place in `hosts`.
    """
    rung: dict[str, int] = {}
    for place, host in enumerate(hosts):
        due = and_(text(PENDING), callback.c.host == host, callback.c.ring_at <= now)
        # Joined by number alone, so that PostgreSQL cannot compare each pending row with each chosen one.
        first = select(callback.c.seq).where(due).order_by(callback.c.ring_at, callback.c.seq).limit(each)
        chosen = first.with_for_update(skip_locked=True).cte("chosen")
        statement = (
            update(callback)
            .where(callback.c.seq == chosen.c.seq)
            .values(ring_at=again_at)
            .returning(callback.c.id)
        )
        rung.update(dict.fromkeys(conn.execute(statement).scalars(), place))
    return rung


def put_off(conn: Connection, callback_id: str, host: str, until: float) -> bool:
    """Let a pending callback wait without using up a try, as when its host is left alone."""
    statement = (
        update(callback).where(callback.c.id == callback_id, text(PENDING)).values(host=host, ring_at=until)
    )
    return conn.execute(statement).rowcount > 0


def unring(conn: Connection, ids: Sequence[str], at: float) -> None:
    """Ring these again from `at` on: their messages could not be published."""
    if ids:
        conn.execute(update(callback).where(callback.c.id.in_(ids), text(PENDING)).values(ring_at=at))
