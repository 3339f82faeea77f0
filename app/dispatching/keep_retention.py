"""The leader's chore of forgetting: in the background, in chunks, so that nobody notices."""

from __future__ import annotations

from functools import partial

from app.access.manage_clients import read_limits
from app.access.store import clients
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.models import StorageSettings
from app.tasks.store import retention

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
        self._among_batches = False  # it is done with tasks
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
        """Tasks first, then the batches that they have left empty."""
        before = now - self._settings.retention
        own = {name: now - seconds for name, seconds in self._own().items()}
        oldest = min([before, *own.values()])
        for _ in range(_ROUNDS):
            if self._among_batches:
                step = partial(retention.delete_empty_batches, after=self._after, before=oldest, limit=_ROWS)
            else:
                step = partial(retention.delete_old, after=self._after, before=before, own=own, limit=_ROWS)
            looked = self._database.write(step)
            self._after = looked.last or 0
            if looked.last is None:
                self._among_batches = not self._among_batches
                if not self._among_batches:
                    self._walk_at = self._clock.monotonic() + _WALK_EVERY
                    return

    def _own(self) -> dict[str, float]:
        """Clients with a retention of their own, in seconds."""
        rows = self._database.read(clients.list_clients)
        found = {row.id: read_limits(row.settings).retention_seconds for row in rows}
        return {name: seconds for name, seconds in found.items() if seconds is not None}
