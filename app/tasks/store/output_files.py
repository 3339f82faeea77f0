"""The output and error file of a batch: made when it ends, in the transaction that ends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, update

from app.tasks.domain.batch import BatchProgress
from app.tasks.domain.task import new_id
from app.tasks.store.files import PROCESSED, NewFile, insert_file
from app.tasks.store.openai_tables import file
from app.tasks.store.tables import batch

OUTPUT, ERRORS = "output", "errors"


class EndedBatch(NamedTuple):
    """A batch that this transaction ends: its row before, its counts after."""

    row: Row[Any]
    after: BatchProgress
    at: float


def add_output_files(conn: Connection, ended: Iterable[EndedBatch]) -> None:
    """Name the lines that succeeded, and those that did not; where there are none, there is no file."""
    for one in ended:
        counts = one.after
        files = {
            "output_file_id": _add(conn, one, OUTPUT) if counts.completed else None,
            "error_file_id": _add(conn, one, ERRORS) if counts.failed + counts.cancelled else None,
        }
        if any(files.values()):
            conn.execute(update(batch).where(batch.c.id == one.row.id).values(files))


def drop_output_files(conn: Connection, batch_id: str) -> None:
    """Take them back: lines of the batch run again. New ones follow at its end. Its row is locked."""
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
