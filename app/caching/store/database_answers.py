"""Cached answers in the database, for all processes. Fit where there is no second Redis; the leader bounds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from app.caching.domain.answer import CachedAnswer, read, write
from app.caching.store import cache_entries
from app.caching.store.cache_entries import CacheEntry
from app.platform.database import Database, GroupCommit
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.encryption import Unsealable
from app.platform.ports import Clock

log = structlog.get_logger("penstock.cache")


class DatabaseAnswers:
    """Implements the AnswerCache port."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._commits: GroupCommit[tuple[str, str, float], None] = GroupCommit(self._commit)

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        """The answers that are kept, by key. Never raises."""
        now = self._clock.now()
        try:
            entries = self._database.read(lambda conn: cache_entries.look_up(conn, keys, now)) if keys else []
            self._note(entries, now)
        except (DatabaseUnreachable, Unsealable):
            return {}
        found = ((entry.key, read(entry.key, entry.entry)) for entry in entries)
        return {key: answer for key, answer in found if answer is not None}

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Keep an answer, in the place of an older one. Never raises."""
        try:
            answer = replace(answer, until=self._clock.now() + seconds)
            self._commits.submit((key, write(key, answer), seconds))
        except Exception as error:  # noqa: BLE001  # whatever it was, the answer itself is recorded elsewhere
            log.warning("an answer was not kept", error=type(error).__name__)

    def stamp(self) -> str | None:
        """The name of the last replacement. Never raises."""
        try:
            return self._database.read(lambda conn: cache_entries.stamp(conn, self._clock.now()))
        except (DatabaseUnreachable, Unsealable):
            return None

    def close(self) -> None:
        """Finish what waits."""
        self._commits.close()

    def _commit(self, entries: Sequence[tuple[str, str, float]]) -> Sequence[None]:
        return self._database.write(lambda conn: self._keep(conn, entries))

    def _keep(self, conn: Connection, entries: Sequence[tuple[str, str, float]]) -> list[None]:
        cache_entries.keep(conn, entries, self._clock.now())
        return [None] * len(entries)

    def _note(self, entries: Sequence[CacheEntry], now: float) -> None:
        stale = [entry.key for entry in entries if entry.stale]
        if stale and not self._database.writing:  # asked within a transaction: the next look notes it
            self._database.write(lambda conn: cache_entries.note_use(conn, stale, now))
