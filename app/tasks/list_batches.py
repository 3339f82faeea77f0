"""List a client's batches, however they were made."""

from __future__ import annotations

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Invalid
from app.platform.domain.identity import is_id
from app.platform.encryption import leniently
from app.tasks.domain.batch import BatchStatus
from app.tasks.store import batches
from app.tasks.store.batches import BatchRow


class ListBatches:
    """The use case."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, client_id: str, after: str | None, limit: int) -> tuple[list[BatchRow], bool]:
        """Batches, newest first, beginning after the one with the id `after`; and whether there are more.

        Those that are still coming in as a body are left out. Raises Invalid for a bad cursor,
        DatabaseUnreachable.
        """

        def read(conn: Connection) -> tuple[list[BatchRow], bool]:
            after_seq = None if after is None else _cursor(conn, client_id, after)
            found: list[BatchRow] = []
            while len(found) <= limit:
                with leniently():
                    rows = batches.list_batches(conn, client_id, after_seq, limit + 1)
                found += [row for row in rows if not _is_coming_in(row)]
                if len(rows) <= limit:
                    break
                after_seq = rows[-1].seq
            return found[:limit], len(found) > limit

        return self._database.read(read)


def _is_coming_in(row: BatchRow) -> bool:
    return row.status is BatchStatus.VALIDATING and row.input_file_id is None


def _cursor(conn: Connection, client_id: str, after: str) -> int:
    row = batches.get_batch(conn, client_id, after) if is_id("batch", after) else None
    if row is None:
        raise Invalid("after: not the id of a batch of yours", param="after", code="invalid_cursor")
    return row.seq
