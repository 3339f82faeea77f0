"""queued -> running: a worker claims rows, with the permits that it redeemed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Row,
    Select,
    Text,
    Update,
    func,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from app.platform.dialects import ROWS, changes_many_tables, encode, recordset
from app.tasks.domain.attempt import Claim, Claimed
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import assume_few, has_status
from app.tasks.store.tables import task, task_content

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

_CLAIM: Mapping[str, TypeEngine[Any]] = {
    **{name: Text() for name in ("worker", "key", "account", "upstream_model")},
    "release": BigInteger(),
    "at": Double(),
}


def claim(conn: Connection, claims: Sequence[Claim]) -> dict[str, Claimed]:
    """Claim rows, except those that were cancelled, expired, held back or claimed by others.

    Of two claims for one row, the first is valid. The attempt counts from now on, until an ending says that nothing was
    sent.
    """
    first: dict[str, Claim] = {}
    for one in claims:
        first.setdefault(one.permit.task_id, one)
    wanted = {ROWS: encode(map(_columns, first.values()))}
    if changes_many_tables(conn):
        rows = conn.execute(_claim(), wanted).all()
    else:  # SQLite cannot return joined columns; nobody else writes between the two statements
        rows = conn.execute(_select(), wanted).all()
        conn.execute(_update(), {ROWS: encode(_columns(first[row.id]) for row in rows)})
    return {row.id: _claimed(first[row.id], row) for row in rows}


def _columns(claim: Claim) -> dict[str, Any]:
    permit = claim.permit
    return {
        "id": permit.task_id,
        "worker": claim.worker,
        "release": permit.release,
        "key": permit.key,
        "account": permit.account,
        "upstream_model": permit.upstream_model,
        "at": claim.at,
    }


def _claimed(claim: Claim, row: Row[Any]) -> Claimed:
    return Claimed(
        permit=claim.permit,
        worker=claim.worker,
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
        started_at=claim.at,
        expires_at=row.expires_at,
        callback_url=row.callback_url,
        metadata=row.metadata,
        cache_key=row.cache_key,
        cache_seconds=row.cache_seconds,
        stream=row.stream,
        ready_at=row.available_at,
    )


def _wanted() -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The claims, and the conditions under which a row is free."""
    wanted = recordset(id=Text(), **_CLAIM)
    free = [
        task.c.id == wanted.c.id,
        has_status(Status.QUEUED),
        task.c.hold == Hold.NONE,
        task.c.expires_at > wanted.c.at,
    ]
    return wanted, free


@cache
def _select() -> Select[Any]:
    """The free rows, locked in order, with their request and their new owner."""
    wanted, free = _wanted()
    claims = (wanted.c[name].label(f"claim_{name}") for name in _CLAIM)
    found = select(*_FACTS, task.c.seq, *claims).select_from(task).join(wanted, task.c.id == wanted.c.id)
    found = found.join(task_content, task_content.c.seq == task.c.seq).where(*free, assume_few(wanted))
    return found.order_by(task.c.seq).with_for_update(of=task)


@cache
def _claim() -> Update:
    """Select and update in one, on PostgreSQL, which returns the rows as they were."""
    found = _select().cte("found")
    claims = {name: found.c[f"claim_{name}"] for name in _CLAIM}
    facts = (found.c[column.name] for column in _FACTS)
    return update(task).where(task.c.seq == found.c.seq).values(_values(claims)).returning(*facts)


@cache
def _update() -> Update:
    """The second half on SQLite."""
    wanted, free = _wanted()
    return update(task).where(*free).values(_values({name: wanted.c[name] for name in _CLAIM}))


def _values(claims: Mapping[str, ColumnElement[Any]]) -> dict[str, Any]:
    owner = dict(claims)
    at = owner.pop("at")
    return {
        **owner,
        "status": Status.RUNNING,
        "claimed_at": at,
        "started_at": func.coalesce(task.c.started_at, at),
        "attempts": task.c.attempts + 1,
        "error_code": None,  # why it was postponed
    }
