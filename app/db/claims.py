"""queued -> running: a worker makes rows its own, under the permits that it redeemed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Row,
    Select,
    Text,
    Update,
    func,
    select,
    update,
)

from app.db.locks import is_now
from app.db.recordset import ROWS, encode, recordset
from app.db.tables import task, task_content
from app.domain.attempt import Claim, Claimed
from app.domain.task import Hold, Status

_FACTS: Sequence[ColumnElement[Any]] = (
    task.c.id,
    task.c.client_id,
    task.c.batch_id,
    task.c.model,
    task.c.attempts,
    task.c.counted,
    task.c.lost,
    task.c.avoid,
    task.c.retry,
    task.c.created_at,
    task.c.available_at,
    task.c.expires_at,
    task.c.callback_url,
    task.c.metadata,
    task.c.cache_key,
    task.c.cache_seconds,
    task.c.stream,
    task_content.c.request,
)


def claim(conn: Connection, claims: Sequence[Claim]) -> dict[str, Claimed]:
    """Claim rows; those that were cancelled, expired, held back or claimed by others are left out.

    Of two claims for one row the first holds. The attempt counts from here on, until an ending says that nothing
    was sent.
    """
    wishes: dict[str, Claim] = {}
    for wish in claims:
        wishes.setdefault(wish.permit.task_id, wish)
    wanted = {ROWS: encode(map(_columns, wishes.values()))}
    found = {row.id: row for row in conn.execute(_select(conn.dialect.name), wanted)}
    # Only those: what became free between the two statements has not been read.
    held = {ROWS: encode(_columns(wish) for name, wish in wishes.items() if name in found)}
    ours = conn.execute(_update(conn.dialect.name), held).scalars()
    return {name: _claimed(wishes[name], found[name]) for name in ours}


def _columns(wish: Claim) -> dict[str, Any]:
    permit = wish.permit
    return {
        "id": permit.task_id,
        "worker": wish.worker,
        "release": permit.release,
        "key": permit.key,
        "account": permit.account,
        "upstream_model": permit.upstream_model,
        "at": wish.at,
    }


def _claimed(wish: Claim, row: Row[Any]) -> Claimed:
    return Claimed(
        permit=wish.permit,
        worker=wish.worker,
        client_id=row.client_id,
        batch_id=row.batch_id,
        model=row.model,
        request=row.request,
        attempts=row.attempts,
        counted=row.counted,
        lost=row.lost,
        avoid=tuple(orjson.loads(row.avoid)) if row.avoid else (),
        retry=row.retry,
        created_at=row.created_at,
        started_at=wish.at,
        expires_at=row.expires_at,
        callback_url=row.callback_url,
        metadata=row.metadata,
        cache_key=row.cache_key,
        cache_seconds=row.cache_seconds,
        stream=row.stream,
        ready_at=row.available_at,
    )


def _wanted(dialect: str) -> tuple[Any, list[ColumnElement[bool]]]:
    """What is asked for, and when a row can be had."""
    columns = {name: Text() for name in ("id", "worker", "key", "account", "upstream_model")}
    wanted = recordset(dialect, release=BigInteger(), at=Double(), **columns)
    free = [
        task.c.id == wanted.c.id,
        is_now(Status.QUEUED),
        task.c.hold == Hold.NONE,
        task.c.expires_at > wanted.c.at,
    ]
    return wanted, free


@cache
def _select(dialect: str) -> Select[Any]:
    """The rows as they stand, locked in order, with what is to be sent."""
    wanted, free = _wanted(dialect)
    found = select(*_FACTS).select_from(task).join(wanted, task.c.id == wanted.c.id)
    found = found.join(task_content, task_content.c.seq == task.c.seq).where(*free)
    return found.order_by(task.c.seq).with_for_update(of=task)


@cache
def _update(dialect: str) -> Update:
    wanted, free = _wanted(dialect)
    return (
        update(task)
        .where(*free)
        .values(
            status=Status.RUNNING,
            worker=wanted.c.worker,
            release=wanted.c.release,
            key=wanted.c.key,
            account=wanted.c.account,
            upstream_model=wanted.c.upstream_model,
            claimed_at=wanted.c.at,
            started_at=func.coalesce(task.c.started_at, wanted.c.at),
            attempts=task.c.attempts + 1,
        )
        .returning(task.c.id)
    )
