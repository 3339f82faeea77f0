"""Look at batches and their results, each client at its own."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import NotFound
from app.platform.domain.identity import is_id
from app.tasks.domain.batch import BatchStatus
from app.tasks.store import batches
from app.tasks.store.batches import BatchRow, ResultRow

_FIRST_PAGE, _LARGEST_PAGE = 16, 500  # rows
_PAGE_CHARACTERS = 4 * 1024 * 1024  # about what one page of results may hold in memory


class ReadBatches:
    """The use cases of looking. All raise DatabaseUnreachable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def batch(self, client_id: str, batch_id: str) -> BatchRow:
        """One batch. Raises NotFound, also while it is still coming in."""
        if not is_id("batch", batch_id):
            raise _no_batch(batch_id)
        row = self._database.read(lambda conn: batches.get_batch(conn, client_id, batch_id))
        if row is None or (row.status is BatchStatus.VALIDATING and row.input_file_id is None):
            raise _no_batch(batch_id)
        return row

    def results(self, batch_id: str) -> Iterator[ResultRow]:
        """The ended tasks of a batch in the order of its requests, read page by page: memory stays flat.

        A page is as large as the results before it suggest; no connection is held between two pages.
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
    """How many rows fit into a page, if they go on like these; growing fourfold at most."""
    characters = sum(len(row.result or "") for row in page) + len(page)
    fitting = _PAGE_CHARACTERS * len(page) // characters
    return max(1, min(fitting, 4 * len(page), _LARGEST_PAGE))


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"no batch {batch_id[:80]!r}", param="batch_id", code="batch_not_found")
