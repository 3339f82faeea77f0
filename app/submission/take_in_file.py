"""Take in the file of a batch: every line checked, then all of it let go, or none.

The process that does it is the batch's taker. Should it die, another begins anew: what was stored is dropped first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import structlog
from sqlalchemy import Connection

from app.access.request_context import calling, from_text
from app.billing.domain.budget import Spent
from app.platform.background_loop import PipelinedWriter
from app.platform.database import Database
from app.platform.domain.errors import Invalid, Rejected
from app.platform.domain.json_text import lines
from app.platform.domain.names import backlog_queue
from app.platform.ports import Clock
from app.submission.admit import Admission
from app.submission.check_request import Place, SubmissionRules, as_json, draft_task
from app.submission.domain.request import BatchRequest
from app.submission.openai_bodies import BatchFileLine, parse_line
from app.submission.store import file_batches
from app.submission.store.file_batches import RefusedLine
from app.submission.submit_batch import MOST_TASKS
from app.tasks.domain.task import new_id
from app.tasks.ports import BacklogPublisher, Meter, NoMeter
from app.tasks.store import files
from app.tasks.store.batches import BatchRow, get_batch
from app.tasks.store.files import FileRow
from app.tasks.store.submissions import NewTask, finish_intake, insert_tasks

log = structlog.get_logger("penstock.intake")

MOST_ERRORS = 100  # told of one file
_CHUNK_ROWS = 1_000
_IN_BATCH = re.compile(r"^requests\[\d+\]\.")  # how checks name a field; here it stands in the line's body
_CHUNK_CHARACTERS = 4 * 1024 * 1024


class _Stopped(Exception):  # not an error: another process has the batch, or it was cancelled
    """The intake is not ours any more."""


@dataclass(slots=True)
class _Taken:
    """What a file has come to so far."""

    total: int = 0
    refused: int = 0
    characters: int = 0
    rows: list[NewTask] = field(default_factory=list)
    lost: list[RefusedLine] = field(default_factory=list)
    errors: list[dict[str, object]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    models: Counter[str] = field(default_factory=Counter)
    wish: Spent = field(default_factory=Spent)
    behind: PipelinedWriter = field(default_factory=PipelinedWriter)

    @property
    def full(self) -> bool:
        return len(self.rows) + len(self.lost) >= _CHUNK_ROWS or self.characters >= _CHUNK_CHARACTERS


class TakeInFile:
    """The use case."""

    def __init__(
        self,
        database: Database,
        reservoir: BacklogPublisher,
        rules: SubmissionRules,
        clock: Clock,
        admission: Admission | None,
        longest_line: int,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or NoMeter()
        self._database = database
        self._reservoir = reservoir
        self._rules = rules
        self._clock = clock
        self._admission = admission
        self._longest_line = longest_line

    def take_in(self, batch_id: str, taker: str) -> None:
        """Bring a batch from `validating` to `in_progress`, or to `failed` with what is wrong, line by line.

        1. Drop what an earlier try has stored. 2. Check the lines, in the name of who made the batch, and store them,
        held, chunk by chunk. 3. In one transaction: the last chunk and the release. Each transaction makes sure that
        the batch is still this taker's. Raises DatabaseUnreachable.
        """
        try:
            self._take_in(batch_id, taker)
        except _Stopped:
            log.info("an intake is not ours any more", batch_id=batch_id)
        self._reservoir.announce([batch_id])

    def give_up(self, batch_id: str, taker: str) -> None:
        """End a batch that cannot be taken in for a reason of ours. Raises DatabaseUnreachable."""
        error = Invalid("the file could not be taken in; the fault is ours", code="internal_error")
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
        taken = _Taken()
        try:
            asker = self._database.read(lambda conn: file_batches.asker_of(conn, batch_id))
            try:
                with calling(from_text(asker)):
                    self._read(row, taker, taken)
            finally:
                taken.behind.settle()
            if not taken.errors and not taken.total:
                raise Invalid("the file holds no requests", code="empty_file")
            if not taken.errors:
                self._finish(row, taker, taken)
        except Rejected as error:
            taken.errors.append(_problem(error, None))
        if taken.errors:
            self._fail(row, taker, taken.errors)

    def _read(self, row: BatchRow, taker: str, taken: _Taken) -> None:
        now = self._clock.now()
        for number, raw in lines(self._chunks(row), self._longest_line):
            if taken.total >= MOST_TASKS:
                raise Invalid(f"more than {MOST_TASKS} requests in one batch", code="too_many_requests")
            try:
                self._add(row, taken, parse_line(raw), now)
            except Rejected as error:  # by policy or for want of a known price, too: by its line
                taken.errors.append(_problem(error, number))
            if len(taken.errors) >= MOST_ERRORS:
                return
            if taken.full and not taken.errors:
                self._store(row.id, taker, taken)

    def _chunks(self, row: BatchRow) -> Iterator[bytes]:
        """The file's bytes. Raises Invalid when it is gone."""
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

    def _add(self, row: BatchRow, taken: _Taken, line: BatchFileLine, now: float) -> None:
        if line.custom_id in taken.names:
            raise Invalid(
                "custom_id: an earlier line has it already", param="custom_id", code="duplicate_custom_id"
            )
        taken.names.add(line.custom_id)
        index, taken.total = taken.total, taken.total + 1
        expires_at = row.expires_at or now
        place = Place(row.id, index, BatchRequest(), expires_at)
        try:
            drafted = draft_task(line.request, row.client_id, self._rules, now, place)
        except Invalid as error:
            if error.code != "model_not_found":
                raise
            taken.lost.append(_refused(row, line, index, now, error))
            taken.refused += 1
            return
        if self._admission is not None:
            drafted = self._admission.draft(drafted, line.request.store, line.request.order)
            if drafted.reserved_tokens is not None:
                taken.wish += Spent(drafted.reserved_tokens, drafted.reserved_picos or 0)
        taken.models[drafted.model] += 1
        taken.rows.append(drafted)
        taken.characters += len(drafted.request)

    def _store(self, batch_id: str, taker: str, taken: _Taken) -> None:
        rows, lost = taken.rows, taken.lost
        taken.rows, taken.lost, taken.characters = [], [], 0

        def store(conn: Connection) -> None:
            _hold(conn, batch_id, taker)
            insert_tasks(conn, rows)
            file_batches.insert_refused(conn, lost)

        taken.behind.do(lambda: self._database.write(store))

    def _finish(self, row: BatchRow, taker: str, taken: _Taken) -> None:
        now = self._clock.now()

        def finish(conn: Connection) -> None:
            _hold(conn, row.id, taker)
            insert_tasks(conn, taken.rows)
            file_batches.insert_refused(conn, taken.lost)
            if self._admission is not None:
                self._admission.take_batch(conn, row.client_id, taken.wish, now)
            file_batches.tell_intake(conn, row.id, refused=taken.refused, models=taken.models)
            finish_intake(conn, row.id, taken.total, now)

        self._database.write(finish)
        for model, count in taken.models.items():
            self._meter.submitted("file", row.client_id, model, count)
        self._reservoir.ring()

    def _fail(self, row: BatchRow, taker: str, errors: list[dict[str, object]]) -> None:
        self._drop_lines(row.id, taker)
        told, now = orjson.dumps(errors).decode(), self._clock.now()

        def fail(conn: Connection) -> None:
            found = file_batches.hold_intake(conn, row.id, taker)
            if found is None:
                raise _Stopped
            file_batches.fail_intake(conn, found, told, now)

        self._database.write(fail)

    def _drop_lines(self, batch_id: str, taker: str) -> None:
        def drop(conn: Connection) -> bool:
            _hold(conn, batch_id, taker)
            return file_batches.drop_lines(conn, batch_id, _CHUNK_ROWS)

        while self._database.write(drop):
            pass


def _hold(conn: Connection, batch_id: str, taker: str) -> None:
    if file_batches.hold_intake(conn, batch_id, taker) is None:
        raise _Stopped


def _refused(row: BatchRow, line: BatchFileLine, index: int, now: float, error: Invalid) -> RefusedLine:
    model = (line.request.model or "")[:200]
    body = as_json({"messages": line.request.messages, **line.request.parameters}, "body") or "{}"
    return RefusedLine(
        id=new_id("task", now),
        client_id=row.client_id,
        batch_id=row.id,
        batch_index=index,
        custom_id=line.custom_id,
        model=model,
        queue=backlog_queue(model, row.client_id),
        request=body,
        at=now,
        expires_at=row.expires_at or now,
        code="model_not_found",
        type=error.type,
        message=error.message,
    )


def _problem(error: Rejected, line: int | None) -> dict[str, object]:
    code = error.code or "invalid_request"
    param, message = (_IN_BATCH.sub("body.", text) if text else None for text in (error.param, error.message))
    return {"code": code, "message": message, "param": param, "line": line}


def _gone() -> Invalid:
    return Invalid("the input file is gone", param="input_file_id", code="file_not_found")
