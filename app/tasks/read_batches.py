"""Read batches: one, a page of them, their results and their usage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound
from app.platform.domain.names import is_id
from app.platform.encryption import leniently
from app.platform.ports import Clock
from app.tasks.domain.rows import BatchRow, ResultRow
from app.tasks.domain.task import BatchStatus
from app.tasks.store import batches
from app.tasks.store.batches import store_usage, sum_usage

_FIRST_PAGE, _LARGEST_PAGE = 16, 500  # rows
_PAGE_CHARACTERS = 4 * 1024 * 1024  # about what one page of results may hold in memory


class ReadBatches:
    """Read batches and their results. Every method raises DatabaseUnreachable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def batch(self, client_id: str, batch_id: str) -> BatchRow:
        """One batch. Raises NotFound, also while it is still being submitted."""
        if not is_id("batch", batch_id):
            raise _no_batch(batch_id)
        row = self._database.read(lambda conn: batches.get_batch(conn, client_id, batch_id))
        if row is None or _is_arriving(row):
            raise _no_batch(batch_id)
        return row

    def page(self, client_id: str, after: str | None, limit: int) -> tuple[list[BatchRow], bool]:
        """Batches, newest first, after the one with the id `after`; and whether there are more.

        Those still being submitted are left out. Raises Invalid for a bad cursor.
        """

        def read(conn: Connection) -> tuple[list[BatchRow], bool]:
            after_seq = None if after is None else _cursor(conn, client_id, after)
            found: list[BatchRow] = []
            while len(found) <= limit:
                with leniently():
                    rows = batches.list_batches(conn, client_id, after_seq, limit + 1)
                found += [row for row in rows if not _is_arriving(row)]
                if len(rows) <= limit:
                    break
                after_seq = rows[-1].seq
            return found[:limit], len(found) > limit

        return self._database.read(read)

    def results(self, batch_id: str) -> Iterator[ResultRow]:
        """The ended tasks of a batch in the order of its requests, read page by page to keep memory use flat.

        The page size follows the size of the results before it; no connection is held between pages.
        """
        after, size = -1, _FIRST_PAGE
        while page := self._page(batch_id, after, size):
            yield from page
            if len(page) < size:
                return
            after, size = page[-1].batch_index, _next_size(page)

    def _page(self, batch_id: str, after: int, size: int) -> list[ResultRow]:
        def read(conn: Connection) -> list[ResultRow]:
            return batches.results(conn, batch_id, after, size)

        return self._database.read(read)


def _next_size(page: list[ResultRow]) -> int:
    """How many rows of this size fit into a page; at most four times as many as before."""
    characters = sum(len(row.result or "") for row in page) + len(page)
    fitting = _PAGE_CHARACTERS * len(page) // characters
    return max(1, min(fitting, 4 * len(page), _LARGEST_PAGE))


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"no batch {batch_id[:80]!r}", param="batch_id", code="batch_not_found")


def _is_arriving(row: BatchRow) -> bool:
    """Whether its requests, sent as a body, are still being received."""
    return row.status is BatchStatus.VALIDATING and row.input_file_id is None


def _cursor(conn: Connection, client_id: str, after: str) -> int:
    row = batches.get_batch(conn, client_id, after) if is_id("batch", after) else None
    if row is None:
        raise Invalid("after: not the id of a batch of yours", param="after", code="invalid_cursor")
    return row.seq


_MIN_AGE = 1.0  # seconds for which the sums of a running batch are cached
_AGE_PER_COST = 20  # seconds of caching per second that summing took
_MAX_CACHED = 1_000  # batches

Usage = dict[str, Any]  # by the names of BatchUsage


class ReadBatchUsage:
    """Read what batches used; caches the sums of running batches for a moment."""

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
        usage = asdict(self._database.read(lambda conn: sum_usage(conn, row.id)))
        text = orjson.dumps(usage).decode()
        self._database.write(lambda conn: store_usage(conn, row.id, text))
        return usage

    def so_far(self, row: BatchRow) -> Usage:
        """The sums so far, at most some seconds old. Raises DatabaseUnreachable."""
        if (usage := self.ended(row)) is not None:
            return usage
        until, usage = self._known.get(row.id, (-1e18, {}))
        began = self._clock.monotonic()
        if began < until:
            return usage
        usage = asdict(self._database.read(lambda conn: sum_usage(conn, row.id)))
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()
        took = self._clock.monotonic() - began
        self._known[row.id] = (began + max(_MIN_AGE, _AGE_PER_COST * took), usage)
        return usage
