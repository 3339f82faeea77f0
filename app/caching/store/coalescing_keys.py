"""Identical tasks in flight, found by cache key: who leads, who follows, and the statements that change it.

A joining transaction locks the key (`lock_keys`), then the leader's row; one that ends the leader locks its row. So a
task either follows a leader that has not ended, or finds none. SQLite has one writer at a time and needs neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

from sqlalchemy import (
    Boolean,
    Connection,
    Integer,
    Row,
    Select,
    Text,
    Update,
    case,
    null,
    select,
    text,
    update,
)

from app.caching.domain.coalescing import Participant
from app.platform.dialects import ROWS, encode, hold_numbers, recordset
from app.tasks.domain.task import Hold, Status
from app.tasks.store.locks import has_status, lock_in_order
from app.tasks.store.tables import FOLLOWING, LEADING, task

_SPACE = 7_221_046  # class id of PostgreSQL advisory locks; any number not used elsewhere
# Keys share locks, so that a transaction with many keys does not fill the server's lock table. A collision only waits
# for a short transaction.
_BUCKETS = 512


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a queued row."""

    task_id: str
    hold: Hold
    leads: bool = False
    hurries: bool = False  # to the front of its queue


def lock_keys(conn: Connection, keys: Iterable[str]) -> None:
    """Keep other transactions from joining by these keys until this one ends."""
    hold_numbers(conn, _SPACE, list({crc32(key.encode()) % _BUCKETS for key in keys}))


def leaders(conn: Connection, keys: Collection[str]) -> dict[str, str]:
    """The ids of the leaders, by key. They are not locked."""
    if not keys:
        return {}
    wanted = encode({"key": key} for key in sorted(keys))
    return {row.cache_key: row.id for row in conn.execute(_leaders(), {ROWS: wanted})}


def followers(conn: Connection, keys: Collection[str], limit: int) -> Sequence[Row[Any]]:
    """(id, batch_id, cache_key) of up to `limit` followers, the oldest first. They are not locked."""
    if not keys:
        return []
    wanted = encode({"key": key} for key in sorted(keys))
    return conn.execute(_followers().limit(limit), {ROWS: wanted}).all()


def is_following(row: Row[Any], key: str) -> bool:
    """Whether a locked row still waits for the answer under a key."""
    return bool(row.status == Status.QUEUED and row.hold == Hold.FOLLOWING and row.cache_key == key)


def participant(row: Row[Any]) -> Participant:
    """A locked row as the joining rules see it. A leader that is not merely waiting counts as running."""
    waits = row.status == Status.QUEUED and row.hold in (Hold.NONE, Hold.UNTIL)
    return Participant(
        row.id, row.seq, row.client_id, row.step, row.expires_at, running=row.leads and not waits
    )


def move(conn: Connection, moves: Sequence[Move]) -> None:
    """Apply moves to queued rows; those that stay in their queue keep their place."""
    if moves:
        rows = ({"id": m.task_id, "hold": m.hold, "leads": m.leads, "hurries": m.hurries} for m in moves)
        conn.execute(_move(), {ROWS: encode(rows)})


def stop_leading(conn: Connection, ids: Collection[str]) -> None:
    """Stop these tasks leading, whatever their state."""
    if ids:
        conn.execute(_resign(), {ROWS: encode({"id": name} for name in sorted(ids))})


@cache
def _leaders() -> Select[Any]:
    wanted = recordset(key=Text())
    return (
        select(task.c.id, task.c.cache_key)
        .join(wanted, wanted.c.key == task.c.cache_key)
        .where(text(LEADING))
    )


@cache
def _followers() -> Select[Any]:
    wanted = recordset(key=Text())
    found = select(task.c.id, task.c.batch_id, task.c.cache_key)
    found = found.join(wanted, wanted.c.key == task.c.cache_key)
    return found.where(text(FOLLOWING)).order_by(task.c.seq)


@cache
def _move() -> Update:
    wanted = recordset(id=Text(), hold=Integer(), leads=Boolean(), hurries=Boolean())
    stays = wanted.c.hold == Hold.NONE
    return (
        update(task)
        .where(task.c.id == wanted.c.id, has_status(Status.QUEUED))
        .values(
            hold=case((wanted.c.hurries, task.c.hold), else_=wanted.c.hold),
            leads=wanted.c.leads,
            front=task.c.front | wanted.c.hurries,
            fed_at=case((stays, task.c.fed_at), else_=null()),
        )
    )


@cache
def _resign() -> Update:
    locked = lock_in_order(recordset(id=Text()))
    return update(task).where(task.c.seq == locked.c.seq).values(leads=False)
