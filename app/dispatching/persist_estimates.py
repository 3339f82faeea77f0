"""Keep what was learned: in the database every ten seconds, so that a successor need not find it out again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from app.pacing.store.learned import load_learned, save_learned
from app.platform.database import Database
from app.platform.ports import Clock

EVERY = 10.0  # seconds


class Learning(Protocol):
    """Who learns."""

    def facts(self) -> Mapping[str, Mapping[str, Any]]:
        """What was learned, by quota."""

    def recall(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up what was kept."""


class PersistEstimates:
    """One of the leader's chores."""

    def __init__(self, database: Database, learning: Learning, clock: Clock) -> None:
        self._database = database
        self._learning = learning
        self._clock = clock
        self._written: Mapping[str, Mapping[str, Any]] = {}
        self._due = 0.0

    def recall(self) -> None:
        """Take up what a predecessor wrote. Raises DatabaseUnreachable."""
        self._learning.recall(self._database.read(load_learned))

    def tick(self) -> int:
        """Write what has changed, once every ten seconds. Gives back how many quotas."""
        return 0 if self._clock.monotonic() < self._due else self.keep()

    def keep(self) -> int:
        """Write it now. Gives back how many quotas. Raises DatabaseUnreachable."""
        self._due = self._clock.monotonic() + EVERY
        facts = self._learning.facts()
        changed = {name: kept for name, kept in facts.items() if self._written.get(name) != kept}
        if changed:
            now = self._clock.now()
            self._database.write(lambda conn: save_learned(conn, changed, now))
            self._written = {**self._written, **changed}
        return len(changed)
