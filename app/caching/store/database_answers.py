"""Cached answers in the database, shared by all processes, for use without a second Redis; the leader bounds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import structlog
from sqlalchemy import Column, Connection, Double, Index, Select, Table, Text, delete, func, select, update

from app.caching.domain.answer import CachedAnswer, read, write
from app.platform.database import Database, GroupCommit
from app.platform.dialects import ROWS, encode, insert_or, recordset
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.encryption import Sealed, Unsealable
from app.platform.ports import Clock
from app.tasks.domain.task import new_id
from app.tasks.store.tables import metadata

_REPLACED = "replaced"  # key of the last replacement's stamp; not a scope
_LONG = 10 * 365 * 86400.0  # seconds
USED_EVERY = 600.0  # seconds between updates of an entry's last use

cache_entry = Table(
    "cache_entry",
    metadata,
    Column("key", Text, primary_key=True),  # <scope>:<hash>
    Column("entry", Sealed, nullable=False),  # JSON
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),  # within some minutes
    Index(None, "expires_at"),
    Index(None, "used_at"),
)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """An entry as it is stored."""

    key: str
    entry: str
    stale: bool  # its last use should be updated


def look_up(conn: Connection, keys: Collection[str], now: float) -> list[CacheEntry]:
    """The entries of these keys that have not expired."""
    wanted = {ROWS: encode({"key": key} for key in keys)}
    rows = conn.execute(_select().where(cache_entry.c.expires_at > now), wanted)
    return [CacheEntry(row.key, row.entry, row.used_at < now - USED_EVERY) for row in rows]


def keep(conn: Connection, entries: Sequence[tuple[str, str, float]], now: float) -> None:
    """Store (key, entry, seconds); replacing an entry changes the stamp."""
    newest = {key: (entry, seconds) for key, entry, seconds in entries}
    if look_up(conn, newest, now):
        newest[_REPLACED] = (new_id("stamp", now), _LONG)
    rows = [
        {"key": key, "entry": entry, "created_at": now, "expires_at": now + seconds, "used_at": now}
        for key, (entry, seconds) in sorted(newest.items())
    ]
    insert = insert_or(conn, cache_entry)
    fresh = {name: insert.excluded[name] for name in ("entry", "created_at", "expires_at", "used_at")}
    conn.execute(insert.on_conflict_do_update(index_elements=["key"], set_=fresh), rows)


def stamp(conn: Connection, now: float) -> str:
    """The stamp of the last replacement; empty when there was none."""
    found = look_up(conn, [_REPLACED], now)
    return found[0].entry if found else ""


def note_use(conn: Connection, keys: Collection[str], now: float) -> None:
    """Update the last use of these entries."""
    conn.execute(update(cache_entry).where(cache_entry.c.key.in_(sorted(keys))).values(used_at=now))


def bound(conn: Connection, most: int, now: float, limit: int) -> int:
    """Delete up to `limit` entries: the expired, then the least recently used beyond `most`. Call until 0."""
    expired = select(cache_entry.c.key).where(cache_entry.c.expires_at <= now).limit(limit)
    gone = _forget(conn, conn.execute(expired).scalars().all())
    if gone:
        return gone
    over = conn.execute(select(func.count()).select_from(cache_entry)).scalar_one() - most
    if over <= 0:
        return 0
    oldest = select(cache_entry.c.key).order_by(cache_entry.c.used_at).limit(min(over, limit))
    return _forget(conn, conn.execute(oldest).scalars().all())


def _forget(conn: Connection, keys: Sequence[str]) -> int:
    if keys:
        conn.execute(delete(cache_entry).where(cache_entry.c.key.in_(keys)))
    return len(keys)


@cache
def _select() -> Select[Any]:
    wanted = recordset(key=Text())
    return select(cache_entry.c.key, cache_entry.c.entry, cache_entry.c.used_at).join(
        wanted, wanted.c.key == cache_entry.c.key
    )


log = structlog.get_logger("penstock.cache")


class DatabaseAnswers:
    """Implements the AnswerCache port."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._commits: GroupCommit[tuple[str, str, float], None] = GroupCommit(self._commit)

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key. Never raises."""
        now = self._clock.now()
        try:
            entries = self._database.read(lambda conn: look_up(conn, keys, now)) if keys else []
            self._note(entries, now)
        except (DatabaseUnreachable, Unsealable):
            return {}
        found = ((entry.key, read(entry.key, entry.entry)) for entry in entries)
        return {key: answer for key, answer in found if answer is not None}

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Cache an answer, replacing an older one. Never raises."""
        try:
            answer = replace(answer, until=self._clock.now() + seconds)
            self._commits.submit((key, write(key, answer), seconds))
        except Exception as error:  # noqa: BLE001  # the answer itself is already in the task
            log.warning("an answer was not cached", error=type(error).__name__)

    def stamp(self) -> str | None:
        """The stamp of the last replacement. Never raises."""
        try:
            return self._database.read(lambda conn: stamp(conn, self._clock.now()))
        except (DatabaseUnreachable, Unsealable):
            return None

    def close(self) -> None:
        """Finish pending writes."""
        self._commits.close()

    def _commit(self, entries: Sequence[tuple[str, str, float]]) -> Sequence[None]:
        return self._database.write(lambda conn: self._keep(conn, entries))

    def _keep(self, conn: Connection, entries: Sequence[tuple[str, str, float]]) -> list[None]:
        keep(conn, entries, self._clock.now())
        return [None] * len(entries)

    def _note(self, entries: Sequence[CacheEntry], now: float) -> None:
        stale = [entry.key for entry in entries if entry.stale]
        if stale and not self._database.writing:  # within a transaction: the next lookup does it
            self._database.write(lambda conn: note_use(conn, stale, now))
