"""Upload a file in pieces of 1 MiB, each stored as a row; the file is hidden until it is complete."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound, PenstockError
from app.platform.domain.names import is_id
from app.platform.ports import Clock
from app.tasks.domain.rows import FileRow
from app.tasks.domain.task import new_id
from app.tasks.store import files
from app.tasks.store.files import CHUNK_BYTES, NewFile

BATCH = "batch"
PURPOSES = ("assistants", BATCH, "evals", "fine-tune", "user_data", "vision")
BATCH_FILES_KEPT = 30 * 86400.0  # seconds, unless the upload says otherwise
_DROPPED_AT_ONCE = 16  # chunks of one transaction


@dataclass(frozen=True, slots=True)
class UploadParams:
    """The form fields of an upload."""

    purpose: str
    expires_seconds: float | None = None


class Upload:
    """A file being uploaded. Belongs to the thread of its request, which must finish or discard it."""

    def __init__(self, database: Database, clock: Clock, client_id: str, filename: str, most: int) -> None:
        """`most` bytes."""
        self._database = database
        self._most = most
        self._clock = clock
        now = clock.now()
        self._new = NewFile(new_id("file", now), client_id, BATCH, filename, now)
        self._seq: int | None = None
        self._held = bytearray()
        self._number = 0
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes. Raises Invalid (413), DatabaseUnreachable."""
        self.size += len(data)
        if self.size > self._most:
            raise Invalid(
                f"file: larger than {self._most} bytes", param="file", code="file_too_large", status=413
            )
        self._held += data
        while len(self._held) >= CHUNK_BYTES:
            piece = bytes(self._held[:CHUNK_BYTES])
            del self._held[:CHUNK_BYTES]
            self._store(piece)

    def finish(self, params: UploadParams) -> FileRow:
        """Make the file visible. Raises Invalid for an empty file, DatabaseUnreachable."""
        if self.size == 0:
            raise Invalid("file: is empty", param="file", code="empty_file")
        if self._held:
            self._store(bytes(self._held))
        kept = params.expires_seconds
        if kept is None and params.purpose == BATCH:
            kept = BATCH_FILES_KEPT
        expires_at = None if kept is None else self._new.created_at + kept
        seq = self._seq or 0
        self._database.write(
            lambda conn: files.finish_upload(conn, seq, self.size, params.purpose, expires_at)
        )
        new = self._new
        return FileRow(
            seq,
            new.id,
            new.client_id,
            params.purpose,
            new.filename,
            self.size,
            None,
            None,
            new.created_at,
            expires_at,
        )

    def discard(self) -> None:
        """Delete what was stored. If the database is away, the file stays hidden until it is cleaned up."""
        if self._seq is None:
            return
        try:
            drop_file(self._database, self._seq)
        except PenstockError:
            return

    def _store(self, piece: bytes) -> None:
        number, self._number = self._number, self._number + 1

        def store(conn: Connection) -> int:
            seq = self._seq if self._seq is not None else files.insert_file(conn, self._new)
            files.add_chunk(conn, seq, number, piece)
            return seq

        self._seq = self._database.write(store)


class StoreFile:
    """The use cases of uploading and deleting."""

    def __init__(self, database: Database, clock: Clock, most: int) -> None:
        """`most` bytes of one file."""
        self._database = database
        self._clock = clock
        self._most = most

    def begin(self, client_id: str, filename: str) -> Upload:
        """Begin an upload, which the caller must finish or discard. Nothing is stored before its first MiB."""
        return Upload(self._database, self._clock, client_id, filename, self._most)

    def delete(self, client_id: str, file_id: str) -> None:
        """Delete a client's file. Raises NotFound, DatabaseUnreachable."""
        now = self._clock.now()
        seq = (
            self._database.write(lambda conn: files.delete_file(conn, client_id, file_id, now))
            if is_id("file", file_id)
            else None
        )
        if seq is None:
            raise NotFound(f"no file {file_id[:80]!r}", param="file_id", code="file_not_found")
        drop_file(self._database, seq)


def drop_file(database: Database, seq: int) -> None:
    """Delete a hidden file, a few chunks per transaction. Raises DatabaseUnreachable; the rest is cleaned up later."""
    while database.write(lambda conn: files.delete_chunks(conn, seq, _DROPPED_AT_ONCE)):
        pass
