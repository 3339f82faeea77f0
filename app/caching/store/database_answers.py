"""Cached answers in the database, shared by all processes, for use without a second Redis; the leader bounds them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)

from app.caching.domain.caching import CachedAnswer, Eviction, read, write
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
    Column(
        "uses", BigInteger, nullable=False, server_default=text("1")
    ),  # within some seconds; with lfu only
    Index(None, "expires_at"),
    Index(None, "used_at"),
)


_COUNT = select(func.count()).select_from(cache_entry)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """An entry as it is stored."""

    key: str
    entry: str
    stale: bool  # its last use should be updated


def look_up(conn: Connection, keys: Collection[str], now: float) -> list[CacheEntry]:
    """The entries of these keys that have not expired at `now`."""
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


def note_uses(conn: Connection, uses: Mapping[str, int], now: float) -> None:
    """Add to the uses of these entries, and update their last use."""
    more = {"uses": cache_entry.c.uses + bindparam("more"), "used_at": now}
    statement = update(cache_entry).where(cache_entry.c.key == bindparam("name")).values(more)
    conn.execute(statement, [{"name": key, "more": uses[key]} for key in sorted(uses)])


def clear(conn: Connection, scope: str | None, now: float, limit: int) -> int:
    """Delete up to `limit` entries, of one scope if given. Call until 0."""
    mine = cache_entry.c.key != _REPLACED
    if scope is not None:
        mine &= cache_entry.c.key.startswith(f"{scope}:", autoescape=True)
    gone = _forget(conn, conn.execute(select(cache_entry.c.key).where(mine).limit(limit)).scalars().all())
    keep(conn, [(_REPLACED, new_id("stamp", now), _LONG)], now)
    return gone


def bound(
    conn: Connection,
    most: int,
    now: float,
    limit: int,
    eviction: Eviction = "lru",
    stale_seconds: float = 0.0,
) -> int:
    """Delete up to `limit` entries: those that expired `stale_seconds` ago, then, beyond `most`, the least recently or
    the least frequently used. Call until 0.
    """
    now -= stale_seconds
    expired = select(cache_entry.c.key).where(cache_entry.c.expires_at <= now).limit(limit)
    gone = _forget(conn, conn.execute(expired).scalars().all())
    if gone:
        return gone
    over = conn.execute(_COUNT.where(cache_entry.c.key != _REPLACED)).scalar_one() - most
    if over <= 0:
        return 0
    order = (cache_entry.c.uses, cache_entry.c.used_at) if eviction == "lfu" else (cache_entry.c.used_at,)
    oldest = select(cache_entry.c.key).where(cache_entry.c.key != _REPLACED).order_by(*order)
    oldest = oldest.limit(min(over, limit))
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


_CLEARED_AT_ONCE = 2_000
_USES_EVERY = 10.0  # seconds between records of uses

log = structlog.get_logger("penstock.cache")


class DatabaseAnswers:
    """Implements the AnswerCache port; the leader bounds it. Threads share it; `_lock` guards the uses."""

    def __init__(
        self, database: Database, clock: Clock, *, eviction: Eviction = "lru", stale_seconds: float = 0.0
    ) -> None:
        """`stale_seconds`: how long expired answers remain."""
        self._database = database
        self._clock = clock
        self._counts = eviction == "lfu"
        self._stale_seconds = stale_seconds
        self._lock = threading.Lock()
        self._uses: Counter[str] = Counter()  # not yet recorded
        self._uses_due = 0.0
        self._commits: GroupCommit[tuple[str, str, float], None] = GroupCommit(self._commit)

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key. Never raises."""
        now = self._clock.now()
        after = now - self._stale_seconds if stale else now
        try:
            entries = self._database.read(lambda conn: look_up(conn, keys, after)) if keys else []
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

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Record uses of answers that were not read from here, soon. Never raises."""
        try:
            if self._counts:
                self._count(uses)
        except DatabaseUnreachable:
            return

    def count(self) -> int | None:
        """How many answers it holds. Never raises."""
        now = self._clock.now()
        fresh = (cache_entry.c.expires_at > now) & (cache_entry.c.key != _REPLACED)
        try:
            return int(self._database.read(lambda conn: conn.execute(_COUNT.where(fresh)).scalar_one()))
        except DatabaseUnreachable:
            return None

    def clear(self, scope: str | None) -> int | None:
        """Remove all answers, or those of one scope. Never raises."""
        now, removed = self._clock.now(), 0
        try:
            while gone := self._database.write(lambda conn: clear(conn, scope, now, _CLEARED_AT_ONCE)):
                removed += gone
        except DatabaseUnreachable:
            return None
        return removed

    def close(self) -> None:
        """Finish pending writes."""
        self._commits.close()

    def _commit(self, entries: Sequence[tuple[str, str, float]]) -> Sequence[None]:
        return self._database.write(lambda conn: self._keep(conn, entries))

    def _keep(self, conn: Connection, entries: Sequence[tuple[str, str, float]]) -> list[None]:
        keep(conn, entries, self._clock.now())
        return [None] * len(entries)

    def _note(self, entries: Sequence[CacheEntry], now: float) -> None:
        if self._counts:
            self._count(dict.fromkeys((entry.key for entry in entries), 1))
            return
        stale = [entry.key for entry in entries if entry.stale]
        if stale and not self._database.writing:  # within a transaction: the next lookup does it
            self._database.write(lambda conn: note_use(conn, stale, now))

    def _count(self, uses: Mapping[str, int]) -> None:
        """Collect uses, and record them every few seconds. Raises DatabaseUnreachable."""
        now = self._clock.monotonic()
        with self._lock:
            self._uses.update(uses)
            if not self._uses or now < self._uses_due or self._database.writing:
                return
            self._uses_due = now + _USES_EVERY
            due, self._uses = self._uses, Counter()
        self._database.write(lambda conn: note_uses(conn, due, self._clock.now()))
