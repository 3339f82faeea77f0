"""What a batch has used: added up once it has ended and kept, now and then while it runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson

from app.platform.database import Database
from app.platform.ports import Clock
from app.tasks.store.batches import BatchRow, batch_used, keep_usage

_LEAST_AGE = 1.0  # seconds for which sums of a running batch are told again
_PATIENCE = 20  # times as long as adding up took
_MOST = 1_000  # batches remembered

Usage = dict[str, Any]  # names of BatchUsed


class ReadBatchUsage:
    """The use case; remembers the sums of running batches for a moment."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[float, Usage]] = {}

    def ended(self, row: BatchRow) -> Usage | None:
        """The sums of a batch that has ended; None for any other. Raises DatabaseUnreachable."""
        if not row.status.ended or not row.total:
            return None
        if row.usage is not None:
            found: Usage = orjson.loads(row.usage)
            return found
        usage = asdict(self._database.read(lambda conn: batch_used(conn, row.id)))
        text = orjson.dumps(usage).decode()
        self._database.write(lambda conn: keep_usage(conn, row.id, text))
        return usage

    def so_far(self, row: BatchRow) -> Usage:
        """The sums as they stand, some seconds old at most. Raises DatabaseUnreachable."""
        if (usage := self.ended(row)) is not None:
            return usage
        until, usage = self._known.get(row.id, (-1e18, {}))
        began = self._clock.monotonic()
        if began < until:
            return usage
        usage = asdict(self._database.read(lambda conn: batch_used(conn, row.id)))
        if len(self._known) >= _MOST:
            self._known.clear()
        took = self._clock.monotonic() - began
        self._known[row.id] = (began + max(_LEAST_AGE, _PATIENCE * took), usage)
        return usage
