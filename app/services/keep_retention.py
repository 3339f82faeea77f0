"""The leader's chore of forgetting: in the background, in chunks, so that nobody notices."""

from __future__ import annotations

from functools import partial

from app.db import clients, retention
from app.db.database import Database
from app.services.client_settings import read_limits
from app.services.ports import Clock
from app.settings.access_models import StorageSettings

_ROWS = 500  # of one transaction
_ROUNDS = 4  # transactions of one tick, of each kind
_WALK_EVERY = 600.0  # seconds between walks over all that might be old


class KeepRetention:
    """A tick does a bounded piece."""

    def __init__(self, database: Database, clock: Clock, settings: StorageSettings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._after = 0  # how far the walk has come
        self._walk_at = clock.monotonic()

    def tick(self) -> None:
        """Erase what is not to be kept, delete what was asked for and what is too old. Raises DatabaseUnreachable."""
        now = self._clock.now()
        unstored = partial(
            retention.erase_unstored, ended_before=now - self._settings.unstored, now=now, limit=_ROWS
        )
        for step in (unstored, partial(retention.delete_marked, limit=_ROWS)):
            for _ in range(_ROUNDS):
                if self._database.write(step) < _ROWS:
                    break
        if self._clock.monotonic() >= self._walk_at:
            self._walk(now)

    def _walk(self, now: float) -> None:
        before = now - self._settings.retention
        own = {name: now - seconds for name, seconds in self._own().items()}
        for _ in range(_ROUNDS):
            looked = self._database.write(
                lambda conn: retention.delete_old(conn, self._after, before, own, _ROWS)
            )
            if looked.last is None:
                self._after, self._walk_at = 0, self._clock.monotonic() + _WALK_EVERY
                oldest = min([before, *own.values()])
                self._database.write(partial(retention.delete_empty_batches, before=oldest, limit=_ROWS))
                return
            self._after = looked.last

    def _own(self) -> dict[str, float]:
        """Clients with a retention of their own, in seconds."""
        rows = self._database.read(clients.list_clients)
        found = {row.id: read_limits(row.settings).retention_seconds for row in rows}
        return {name: seconds for name, seconds in found.items() if seconds is not None}
