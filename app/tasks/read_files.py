"""Read files: uploads chunk by chunk, those of a batch rendered page by page from its rows; memory use stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import orjson
from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound
from app.platform.domain.json_text import one_line
from app.platform.domain.names import is_id
from app.platform.ports import Clock
from app.tasks.domain.rows import FileRow
from app.tasks.domain.task import Status, failure_status
from app.tasks.store import batches, files
from app.tasks.store.batches import FAILURES, SUCCESSES, InputRow, LineRow
from app.tasks.store.files import OUTPUT
from app.tasks.views import openai_error

ENDPOINT = "/v1/chat/completions"
_UNANSWERED = {
    Status.CANCELLED: ("batch_cancelled", "This request was cancelled before it had an answer."),
    Status.EXPIRED: ("batch_expired", "This request had no answer before the batch expired."),
}


def output_line(row: LineRow) -> bytes:
    """The output line of a task that succeeded, with its newline."""
    body = orjson.Fragment(one_line(row.result)) if row.result is not None else None
    return _line(row, {"status_code": 200, "request_id": row.task_id, "body": body}, None)


def error_line(row: LineRow) -> bytes:
    """The error line of a task that did not succeed: with the response it would have had, or why there is none."""
    if row.status in _UNANSWERED:
        code, message = _UNANSWERED[row.status]
        return _line(row, None, {"code": code, "message": message})
    if row.error_code == "upstream_timeout":
        return _line(row, None, {"code": "request_timeout", "message": row.error_message})
    problem = openai_error(row)
    answer = {
        "status_code": failure_status(row.error_code),
        "request_id": row.task_id,
        "body": {"error": problem},
    }
    return _line(row, answer, None)


def input_line(row: InputRow) -> bytes:
    """The request line of a batch that was submitted without a file."""
    body = {"model": row.model, **orjson.loads(row.request or "{}")}
    line = {
        "custom_id": _name(row.custom_id, row.batch_index),
        "method": "POST",
        "url": ENDPOINT,
        "body": body,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _line(row: LineRow, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {
        "id": row.task_id,
        "custom_id": _name(row.custom_id, row.batch_index),
        "response": response,
        "error": error,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _name(custom_id: str | None, index: int) -> str:
    return custom_id if custom_id is not None else f"request-{index}"


INPUT = "input"  # kind of the virtual file with the requests of a batch that has no input file
_PAGE = 100  # rows


class _Indexed(Protocol):
    @property
    def batch_index(self) -> int: ...


R = TypeVar("R", bound=_Indexed)


@dataclass(frozen=True, slots=True)
class FilePage:
    """One page of a list."""

    rows: list[FileRow]
    has_more: bool


class ReadFiles:
    """Read files and their content. Every method raises DatabaseUnreachable."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def file(self, client_id: str, file_id: str) -> FileRow:
        """One file with its size. Raises NotFound."""
        return self._measured(self._find(client_id, file_id))

    def page(
        self, client_id: str, *, purpose: str | None, after: str | None, ascending: bool, limit: int
    ) -> FilePage:
        """Files after the one with the id `after`. Raises Invalid for a bad cursor."""
        after_seq = None if after is None else self._cursor(client_id, after)
        now = self._clock.now()
        rows = self._database.read(
            lambda conn: files.list_files(
                conn,
                client_id,
                now,
                purpose=purpose,
                after_seq=after_seq,
                ascending=ascending,
                limit=limit + 1,
            )
        )
        return FilePage([self._measured(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def content(self, client_id: str, file_id: str) -> tuple[FileRow, Iterator[bytes]]:
        """A file and its bytes, read as they are consumed. Raises NotFound."""
        row = self._find(client_id, file_id)
        return row, self.chunks(row)

    def chunks(self, row: FileRow) -> Iterator[bytes]:
        """The bytes of a file; incomplete when it is deleted meanwhile."""
        return self._stored(row.seq) if row.batch_id is None else self._rendered(row.batch_id, row.kind)

    def _find(self, client_id: str, file_id: str) -> FileRow:
        now = self._clock.now()
        row = None
        if is_id("file", file_id):
            row = self._database.read(lambda conn: files.get_file(conn, client_id, file_id, now))
            row = row or self._requests(client_id, file_id)
        if row is None:
            raise NotFound(f"no file {file_id[:80]!r}", param="file_id", code="file_not_found")
        return row

    def _requests(self, client_id: str, file_id: str) -> FileRow | None:
        """The virtual input file of a batch that was submitted without one."""
        batch_id = file_id.replace("file_", "batch_", 1)
        row = self._database.read(lambda conn: batches.get_batch(conn, client_id, batch_id))
        if row is None or row.input_file_id is not None:
            return None
        name = f"{batch_id}_input.jsonl"
        return FileRow(0, file_id, client_id, "batch", name, None, batch_id, INPUT, row.created_at, None)

    def _cursor(self, client_id: str, after: str) -> int:
        now = self._clock.now()
        row = self._database.read(lambda conn: files.get_file(conn, client_id, after, now))
        if row is None:
            raise Invalid("after: not the id of a file of yours", param="after", code="invalid_cursor")
        return row.seq

    def _measured(self, row: FileRow) -> FileRow:
        """The file with its size: a rendered file is rendered once to measure it."""
        if row.bytes is not None:
            return row
        size = sum(map(len, self.chunks(row)))
        if row.kind != INPUT:
            self._database.write(lambda conn: files.set_size(conn, row.seq, size))
        return replace(row, bytes=size)

    def _stored(self, seq: int) -> Iterator[bytes]:
        number = 0
        while (data := self._chunk(seq, number)) is not None:
            yield data
            number += 1

    def _chunk(self, seq: int, number: int) -> bytes | None:
        return self._database.read(lambda conn: files.read_chunk(conn, seq, number))

    def _rendered(self, batch_id: str, kind: str | None) -> Iterator[bytes]:
        if kind == INPUT:
            asked = self._pages(lambda conn, after: batches.input_lines(conn, batch_id, after, _PAGE))
            return (input_line(row) for row in asked)
        statuses, render = (SUCCESSES, output_line) if kind == OUTPUT else (FAILURES, error_line)
        ended = self._pages(lambda conn, after: batches.ended_lines(conn, batch_id, statuses, after, _PAGE))
        return (render(row) for row in ended)

    def _pages(self, read: Callable[[Connection, int], Sequence[R]]) -> Iterator[R]:
        after = -1
        while rows := self._page_after(read, after):
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1].batch_index

    def _page_after(self, read: Callable[[Connection, int], Sequence[R]], after: int) -> Sequence[R]:
        return self._database.read(lambda conn: read(conn, after))
