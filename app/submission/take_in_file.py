"""Take in the file of a batch: check every line, then release all of them, or none.

The process that does it is the batch's taker. If it dies, another starts over, deleting first what was stored. An
intake runs in one thread (`RunIntakes`), its writes in a second one (`BatchIntake`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson
import structlog
from sqlalchemy import Connection

from app.access.authenticate import calling, from_text
from app.platform.database import Database
from app.platform.domain.errors import Invalid, Rejected
from app.platform.domain.json_text import lines
from app.platform.domain.names import backlog_queue
from app.platform.ports import Clock
from app.submission import file_batches
from app.submission.admit import Admission
from app.submission.batch_intake import CHUNK_ROWS, TOO_MANY, BatchIntake
from app.submission.check_request import Place, SubmissionRules, as_json
from app.submission.domain.request import BatchRequest
from app.submission.file_batches import RefusedLine
from app.submission.openai_bodies import BatchFileLine, parse_line
from app.tasks.domain.task import new_id
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store import files
from app.tasks.store.batches import BatchRow, get_batch
from app.tasks.store.files import FileRow
from app.tasks.store.submissions import finish_intake

log = structlog.get_logger("penstock.intake")

_OF_THE_FILE = (TOO_MANY, "duplicate_custom_id")  # errors that fail the file, not one request of it
MOST_ERRORS = 100  # listed for one file


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
    ) -> None:
        self._meter = meter or NoMeter()
        self._database = database
        self._publisher = publisher
        self._rules = rules
        self._clock = clock
        self._admission = admission
        self._longest_line = longest_line

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
        """Check line after line, up to 100 errors; after the first one nothing more is stored."""
        errors: list[dict[str, object]] = []
        for number, raw in lines(self._chunks(row), self._longest_line):
            try:
                self._add(row, intake, parse_line(raw))
            except Rejected as error:  # also a refusal by policy, or an unknown price
                intake.failed = True
                errors.append(_problem(error, number))
                if len(errors) >= MOST_ERRORS or error.code == TOO_MANY:
                    break
            intake.store_full_chunk()
        return errors

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

    def _chunks(self, row: BatchRow) -> Iterator[bytes]:
        """The file's bytes. Raises Invalid if it was deleted."""
        now, name = self._clock.now(), row.input_file_id or ""
        found = self._database.read(lambda conn: files.get_file(conn, row.client_id, name, now))
        if found is None:
            raise _gone()
        left, number = found.bytes or 0, 0
        while left > 0:
            data = self._chunk(found, number)
            left, number = left - len(data), number + 1
            yield data

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


def _gone() -> Invalid:
    return Invalid("the input file was deleted", param="input_file_id", code="file_not_found")
