"""Files: uploads in chunks of 1 MiB, and the output files of batches, which are rendered from their rows.

An upload is hidden until it is complete. A deleted or expired file is hidden at once; its chunks are deleted later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, or_, select, text, update

from app.tasks.domain.rows import FileRow
from app.tasks.domain.task import BatchProgress, new_id
from app.tasks.store.tables import PERISHABLE, UNSETTLED, batch, file, file_chunk

CHUNK_BYTES = 1024 * 1024
UPLOADING, PROCESSED, DELETED = "uploading", "processed", "deleted"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to insert. `bytes` None: it is rendered from its batch's rows."""

    id: str
    client_id: str
    purpose: str
    filename: str
    created_at: float
    expires_at: float | None = None
    status: str = UPLOADING
    batch_id: str | None = None
    kind: str | None = None  # output, errors


def insert_file(conn: Connection, new: NewFile) -> int:
    """Insert a file; returns its sequence number."""
    seq: int = conn.execute(insert(file).values(asdict(new)).returning(file.c.seq)).scalar_one()
    return seq


def add_chunk(conn: Connection, file_seq: int, number: int, data: bytes) -> None:
    """Store the next chunk of an upload."""
    conn.execute(insert(file_chunk).values(file_seq=file_seq, number=number, data=data))


def finish_upload(conn: Connection, file_seq: int, size: int, purpose: str, expires_at: float | None) -> None:
    """Make a complete upload visible."""
    mine = (file.c.seq == file_seq) & (file.c.status == UPLOADING)
    whole = {"status": PROCESSED, "bytes": size, "purpose": purpose, "expires_at": expires_at}
    conn.execute(update(file).where(mine).values(whole))


def get_file(conn: Connection, client_id: str | None, file_id: str, now: float) -> FileRow | None:
    """One visible file; None when this client (None: any client) has no such file."""
    found = select(*_columns()).where(file.c.id == file_id, *_visible(now))
    if client_id is not None:
        found = found.where(file.c.client_id == client_id)
    row = conn.execute(found).first()
    return None if row is None else _file(row)


def list_files(
    conn: Connection,
    client_id: str,
    now: float,
    *,
    purpose: str | None = None,
    after_seq: int | None = None,
    ascending: bool = False,
    limit: int = 20,
) -> list[FileRow]:
    """A client's files, newest first unless `ascending`, beginning beyond `after_seq`."""
    found = select(*_columns()).where(file.c.client_id == client_id, *_visible(now))
    if purpose is not None:
        found = found.where(file.c.purpose == purpose)
    if after_seq is not None:
        found = found.where(file.c.seq > after_seq if ascending else file.c.seq < after_seq)
    found = found.order_by(file.c.seq if ascending else file.c.seq.desc()).limit(limit)
    return [_file(row) for row in conn.execute(found)]


def read_chunk(conn: Connection, file_seq: int, number: int) -> bytes | None:
    """One chunk of an uploaded file; None past its end, or when the file is gone."""
    mine = (file_chunk.c.file_seq == file_seq) & (file_chunk.c.number == number)
    found: bytes | None = conn.execute(select(file_chunk.c.data).where(mine)).scalar()
    return found


def set_size(conn: Connection, file_seq: int, size: int) -> None:
    """Store the size of a rendered file."""
    conn.execute(update(file).where(file.c.seq == file_seq, file.c.bytes.is_(None)).values(bytes=size))


def delete_file(conn: Connection, client_id: str, file_id: str, now: float) -> int | None:
    """Hide a file from now on; returns its sequence number, None when the client has no such file."""
    mine = (file.c.id == file_id) & (file.c.client_id == client_id)
    gone = update(file).where(mine, *_visible(now)).values(status=DELETED).returning(file.c.seq)
    seq: int | None = conn.execute(gone).scalar()
    return seq


def delete_chunks(conn: Connection, file_seq: int, limit: int) -> bool:
    """Delete up to `limit` chunks of a hidden file, then the file; returns whether there are more."""
    first = select(file_chunk.c.number).where(file_chunk.c.file_seq == file_seq)
    numbers = list(conn.execute(first.order_by(file_chunk.c.number).limit(limit)).scalars())
    if numbers:
        these = (file_chunk.c.file_seq == file_seq) & (file_chunk.c.number <= numbers[-1])
        conn.execute(delete(file_chunk).where(these))
    if len(numbers) == limit:
        return True
    conn.execute(delete(file).where(file.c.seq == file_seq, file.c.status != PROCESSED))
    return False


def hide_expired(conn: Connection, now: float, limit: int) -> None:
    """Hide expired files; their chunks are deleted later."""
    due = select(file.c.seq).where(text(PERISHABLE), file.c.expires_at <= now, file.c.status == PROCESSED)
    due = due.order_by(file.c.expires_at).limit(limit)
    conn.execute(update(file).where(file.c.seq.in_(due)).values(status=DELETED))


def files_to_delete(conn: Connection, before: float, limit: int) -> Sequence[int]:
    """Files to delete: hidden ones, and uploads started before that instant, whose process has died."""
    dead = (file.c.status == DELETED) | (file.c.created_at < before)
    found = select(file.c.seq).where(text(UNSETTLED), dead).order_by(file.c.seq).limit(limit)
    return list(conn.execute(found).scalars())


def _visible(now: float) -> tuple[ColumnElement[bool], ...]:
    return (file.c.status == PROCESSED, or_(file.c.expires_at.is_(None), file.c.expires_at > now))


def _columns() -> list[Any]:
    return [file.c[field.name] for field in fields(FileRow)]


def _file(row: Row[Any]) -> FileRow:
    return FileRow(**row._asdict())


OUTPUT, ERRORS = "output", "errors"


class EndedBatch(NamedTuple):
    """A batch that this transaction ends: its row before, its counters after."""

    row: Row[Any]
    after: BatchProgress
    at: float


def add_output_files(conn: Connection, ended: Iterable[EndedBatch]) -> None:
    """Create the output and error file of each batch that ended; one without lines is not created."""
    for one in ended:
        counts = one.after
        files = {
            "output_file_id": _add(conn, one, OUTPUT) if counts.completed else None,
            "error_file_id": _add(conn, one, ERRORS) if counts.failed + counts.cancelled else None,
        }
        if any(files.values()):
            conn.execute(update(batch).where(batch.c.id == one.row.id).values(files))


def drop_output_files(conn: Connection, batch_id: str) -> None:
    """Delete the output files of a batch whose lines run again; its next end creates new ones. Its row is locked."""
    conn.execute(delete(file).where(file.c.batch_id == batch_id))
    gone = {"output_file_id": None, "error_file_id": None, "usage": None}
    conn.execute(update(batch).where(batch.c.id == batch_id).values(gone))


def _add(conn: Connection, one: EndedBatch, kind: str) -> str:
    kept = one.row.output_expires_seconds
    name = new_id("file", one.at)
    new = NewFile(
        id=name,
        client_id=one.row.client_id,
        purpose="batch_output",
        filename=f"{one.row.id}_{'output' if kind == OUTPUT else 'error'}.jsonl",
        created_at=one.at,
        expires_at=None if kept is None else one.at + kept,
        status=PROCESSED,
        batch_id=one.row.id,
        kind=kind,
    )
    insert_file(conn, new)
    return name
