"""Take in the file of a batch: check every line, then release all of them, or none.

The process that does it is the batch's taker. If it dies, another starts over, deleting first what was stored. An
intake runs in one thread (`RunIntakes`), its writes in a second one (`BatchIntake`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection

from app.access.authenticate import calling, from_text
from app.platform.database import Database
from app.platform.domain.errors import Invalid, Rejected
from app.platform.domain.names import backlog_queue
from app.platform.ports import Clock
from app.submission import file_batches
from app.submission.admit import Admission
from app.submission.batch_intake import CHUNK_ROWS, TOO_MANY, BatchIntake
from app.submission.check_request import Place, SubmissionRules, as_json
from app.submission.domain.file_kind import BadFile, Fault, Faults
from app.submission.domain.request import BatchRequest
from app.submission.file_batches import RefusedLine
from app.submission.openai_bodies import BatchFileLine, check_line, check_request
from app.submission.read_file import Reading, Source
from app.submission.read_requests import Item, RequestFile
from app.tasks.domain.rows import BatchRow, FileRow
from app.tasks.domain.task import new_id
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store import files
from app.tasks.store.batches import get_batch
from app.tasks.store.files import CHUNK_BYTES
from app.tasks.store.submissions import finish_intake

log = structlog.get_logger("penstock.intake")

_OF_THE_FILE = (TOO_MANY, "duplicate_custom_id")  # errors that fail the file, not one request of it


class _Stopped(Exception):
    """The intake is no longer ours: another process has the batch, or it was cancelled."""


class TakeInFile:
    """The use case."""

    def __init__(
        self,
        database: Database,
        publisher: BacklogPublisher,
        rules: SubmissionRules,
        clock: Clock,
        admission: Admission | None,
        longest_line: int,
        meter: Meter | None = None,
        most_bytes: int | None = None,
    ) -> None:
        """`longest_line` and `most_bytes`, of a file when it is unpacked, are in bytes."""
        self._meter = meter or NoMeter()
        self._database = database
        self._publisher = publisher
        self._rules = rules
        self._clock = clock
        self._admission = admission
        self._reading = Reading(longest=longest_line, most_bytes=most_bytes)

    def take_in(self, batch_id: str, taker: str) -> None:
        """Bring a batch from `validating` to `in_progress`, or to `failed` with its errors, line by line.

        1. Delete what an earlier try stored.
        2. Check the lines, as the caller who created the batch, and store them, held, chunk by chunk.
        3. In one transaction: the last chunk and the release.

        Each transaction makes sure that the batch is still this taker's. Raises DatabaseUnreachable.
        """
        try:
            self._take_in(batch_id, taker)
        except _Stopped:
            log.info("intake no longer ours", batch_id=batch_id)
        self._publisher.announce([batch_id])

    def give_up(self, batch_id: str, taker: str) -> None:
        """Fail a batch because of an internal error. Raises DatabaseUnreachable."""
        error = Invalid(
            "internal error: the file could not be read in; create the batch again", code="internal_error"
        )
        row = self._database.read(lambda conn: get_batch(conn, None, batch_id))
        try:
            if row is not None:
                self._fail(row, taker, [_problem(error, None)])
        except _Stopped:
            return

    def _take_in(self, batch_id: str, taker: str) -> None:
        self._drop_lines(batch_id, taker)
        row = self._database.read(lambda conn: get_batch(conn, None, batch_id))
        if row is None or row.input_file_id is None:
            raise _Stopped
        try:
            errors = self._store(row, taker)
        except Rejected as error:
            errors = [_problem(error, None)]
        if errors:
            self._fail(row, taker, errors)

    def _store(self, row: BatchRow, taker: str) -> list[dict[str, object]]:
        """Store the file's lines and release them; returns what is wrong with them, and releases nothing then."""
        intake = self._intake(row, taker)
        asker = self._database.read(lambda conn: file_batches.asker_of(conn, row.id))
        try:
            with calling(from_text(asker)):
                errors = self._read(row, intake)
        finally:
            intake.settle()
        if errors:
            return errors
        if not intake.total:
            raise Invalid("the file holds no requests", code="empty_file")
        self._finish(row, intake)
        return []

    def _intake(self, row: BatchRow, taker: str) -> BatchIntake:
        now = self._clock.now()
        return BatchIntake(
            self._database,
            self._rules,
            self._admission,
            client_id=row.client_id,
            first=Place(row.id, 0, BatchRequest(), row.expires_at or now, in_file=True),
            now=now,
            begin=lambda conn: _hold(conn, row.id, taker),
        )

    def _read(self, row: BatchRow, intake: BatchIntake) -> list[dict[str, object]]:
        """Check request after request, up to 100 faults; after the first one nothing more is stored."""
        faults = Faults()
        try:
            for item in self._requests(row, faults):
                try:
                    self._add(row, intake, _line_of(item, intake.total))
                except Rejected as error:  # also a refusal by policy, or an unknown price
                    faults.add(item.fault(error))
                    if error.code == TOO_MANY:
                        break
                intake.failed = bool(faults.found)
                intake.store_full_chunk()
        except BadFile as error:
            intake.failed = True
            return [_listed(fault) for fault in error.faults]
        return [_listed(fault) for fault in faults.found]

    def _requests(self, row: BatchRow, faults: Faults) -> RequestFile:
        """The file's requests, whatever its format; lines of plain text are no requests here."""
        now, name = self._clock.now(), row.input_file_id or ""
        found = self._database.read(lambda conn: files.get_file(conn, row.client_id, name, now))
        if found is None:
            raise _gone()
        stored = _StoredFile(found.bytes or 0, lambda number: self._chunk(found, number))
        source = Source(io.BufferedReader(stored, CHUNK_BYTES), "the file", found.filename)
        return RequestFile(source, replace(self._reading, no_prompts=True), faults)

    def _add(self, row: BatchRow, intake: BatchIntake, line: BatchFileLine) -> None:
        """Take the line's request, or keep it as one that failed: a wrong request is no fault of the file."""
        refusal = line.refusal
        if line.request is None:
            intake.count_refused(line.custom_id)
        else:
            try:
                intake.add(line.request)
            except Invalid as error:
                if error.code in _OF_THE_FILE:
                    raise
                refusal = error
        if refusal is not None:
            intake.refuse(_refused(row, line, intake.total - 1, self._clock.now(), refusal))

    def _chunk(self, found: FileRow, number: int) -> bytes:
        data = self._database.read(lambda conn: files.read_chunk(conn, found.seq, number))
        if data is None:
            raise _gone()
        return data

    def _finish(self, row: BatchRow, intake: BatchIntake) -> None:
        now = self._clock.now()

        def finish(conn: Connection) -> None:
            intake.insert_rest(conn, now)
            file_batches.record_intake(conn, row.id, refused=intake.refused, models=intake.models)
            finish_intake(conn, row.id, intake.total, now)

        self._database.write(finish)
        intake.count(self._meter, "file")
        self._publisher.wake()

    def _fail(self, row: BatchRow, taker: str, errors: list[dict[str, object]]) -> None:
        self._drop_lines(row.id, taker)
        error_text, now = orjson.dumps(errors).decode(), self._clock.now()

        def fail(conn: Connection) -> None:
            found = file_batches.hold_intake(conn, row.id, taker)
            if found is None:
                raise _Stopped
            file_batches.fail_intake(conn, found, error_text, now)

        self._database.write(fail)

    def _drop_lines(self, batch_id: str, taker: str) -> None:
        def drop(conn: Connection) -> bool:
            _hold(conn, batch_id, taker)
            return file_batches.drop_lines(conn, batch_id, CHUNK_ROWS)

        while self._database.write(drop):
            pass


def _hold(conn: Connection, batch_id: str, taker: str) -> None:
    if file_batches.hold_intake(conn, batch_id, taker) is None:
        raise _Stopped


def _refused(row: BatchRow, line: BatchFileLine, index: int, now: float, error: Invalid) -> RefusedLine:
    model = str(line.body.get("model") or "")[:200]
    known = error.code == "model_not_found"
    return RefusedLine(
        id=new_id("task", now),
        client_id=row.client_id,
        batch_id=row.id,
        batch_index=index,
        custom_id=line.custom_id,
        model=model,
        queue=backlog_queue(model, row.client_id),
        request=_as_text(line.body),
        created_at=now,
        expires_at=row.expires_at or now,
        error_code="model_not_found" if known else "invalid_request",
        error_type=error.type,
        error_message=error.message,
    )


def _as_text(body: Mapping[str, object]) -> str:
    try:
        return as_json(body, "body") or "{}"
    except Invalid:  # that is why it was refused
        return "{}"


def _problem(error: Rejected, line: int | None) -> dict[str, object]:
    code = error.code or "invalid_request"
    return {"code": code, "message": error.message, "param": error.param, "line": line}


def _line_of(item: Item, index: int) -> BatchFileLine:
    return check_line(item.value) if item.is_openai else check_request(item.request, index)


def _listed(fault: Fault) -> dict[str, object]:
    """A fault as OpenAI lists it."""
    code = {"invalid_json": "invalid_json_line"}.get(fault.code, fault.code)
    words = (
        fault.message
        if fault.where.startswith("line") or not fault.where
        else f"{fault.where}: {fault.message}"
    )
    message = f"{words}. {fault.hint}" if fault.hint and "--" not in fault.hint else words  # no options here
    return {"code": code, "message": message, "param": fault.param, "line": fault.number or None}


class _StoredFile(io.RawIOBase):
    """An uploaded file as one that can seek: its chunks are read as they are wanted."""

    def __init__(self, size: int, chunk: Callable[[int], bytes]) -> None:
        self._size = size
        self._chunk = chunk
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._size:
            return 0
        number, begin = divmod(self._place, CHUNK_BYTES)
        data = self._chunk(number)[begin : begin + len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _gone() -> Invalid:
    return Invalid("the input file was deleted", param="input_file_id", code="file_not_found")
