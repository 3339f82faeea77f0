"""Create batches over files: stored at once as `validating`, taken in after the response."""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue

import structlog
from sqlalchemy import Connection

from app.access.authenticate import current, to_text
from app.platform.background_loop import END, BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, Invalid
from app.platform.domain.names import is_id
from app.platform.ports import Clock
from app.submission import file_batches
from app.submission.check_request import SubmissionRules, as_json, check_callback
from app.submission.domain.request import BatchRequest
from app.submission.hold_connections import HoldConnections
from app.submission.store_file import BATCH
from app.submission.take_in_file import TakeInFile
from app.tasks.domain.rows import BatchRow
from app.tasks.domain.task import new_id
from app.tasks.read_files import ENDPOINT
from app.tasks.store import files
from app.tasks.store.batches import get_batch
from app.tasks.store.submissions import NewBatch, insert_batch

log = structlog.get_logger("penstock.intake")

_AGAIN_SECONDS = 1.0  # wait after the database was unreachable
_ADOPT_EVERY = 5.0
_ADOPTED_AT_ONCE = 10


class RunIntakes:
    """Takes files in, one after another, in one thread that starts with the first.

    Any thread may `submit`; only the loop's thread touches `_now`, and only the leader calls `tick`. `holder`
    registers this process as alive.
    """

    def __init__(
        self, take_in: TakeInFile, database: Database, holder: HoldConnections, clock: Clock
    ) -> None:
        self._take_in = take_in
        self._database = database
        self._holder = holder
        self._clock = clock
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._now: str | None = None  # the batch being taken in
        self._loop = BackgroundLoop(
            "intakes",
            self._next,
            expected=(DatabaseUnreachable,),
            backoff=(_AGAIN_SECONDS, _AGAIN_SECONDS),
            wake=lambda: self._queue.put(None),
        )
        self._adopt_at = 0.0

    def taker(self) -> str:
        """The id of this process, recorded as alive from now on. Raises DatabaseUnreachable."""
        self._holder.start()
        return self._holder.id

    def submit(self, batch_id: str) -> None:
        """Queue a batch whose taker is this process."""
        self._loop.start()
        self._queue.put(batch_id)

    def tick(self) -> int:
        """Take over, every few seconds, the intakes of dead processes; returns how many. Called by the leader."""
        if self._clock.monotonic() < self._adopt_at:
            return 0
        self._adopt_at = self._clock.monotonic() + _ADOPT_EVERY
        left = self._database.read(lambda conn: file_batches.orphaned(conn, _ADOPTED_AT_ONCE))
        adopted = [batch_id for batch_id in left if self._adopt(batch_id)]
        for batch_id in adopted:
            self.submit(batch_id)
        return len(adopted)

    def close(self) -> None:
        """End the thread after its current intake; another process takes over the rest."""
        self._loop.close()

    def _adopt(self, batch_id: str) -> bool:
        taker = self.taker()
        return self._database.write(lambda conn: file_batches.adopt(conn, batch_id, taker))

    def _next(self) -> object:
        """Take in the next batch, or the same again after the database was away. Raises DatabaseUnreachable."""
        self._now = self._now or self._queue.get()
        if self._now is None:
            return END
        self._done(self._now)
        self._now = None
        return None

    def _done(self, batch_id: str) -> None:
        try:
            self._take_in.take_in(batch_id, self._holder.id)
        except DatabaseUnreachable:
            raise
        except Exception as error:  # noqa: BLE001 - one bad file must not keep the others waiting
            log.error("an intake met an error of ours", batch_id=batch_id, error=type(error).__name__)
            self._take_in.give_up(batch_id, self._holder.id)


_REPEATS_SECONDS = 600.0  # in which a repeated request finds the batch of its first try


@dataclass(frozen=True, slots=True)
class FileBatchRequest:
    """A batch over a file. `fingerprint` identifies API key and body; `repeated`: it may be a retry."""

    input_file_id: str
    completion_window: str  # as it was written
    options: BatchRequest
    output_expires_seconds: float | None = None
    fingerprint: str = ""
    repeated: bool = False


class CreateFileBatch:
    """The use case."""

    def __init__(self, database: Database, intakes: RunIntakes, rules: SubmissionRules, clock: Clock) -> None:
        self._database = database
        self._intakes = intakes
        self._rules = rules
        self._clock = clock

    def create(self, client_id: str, wanted: FileBatchRequest) -> BatchRow:
        """Create it, or find the one that an earlier try of the same request created.

        Raises Invalid for a missing file or one of another purpose, DatabaseUnreachable.
        """
        check_callback(wanted.options.callback_url, self._rules)
        now, taker = self._clock.now(), self._intakes.taker()
        new = self._new(client_id, wanted, now, taker)

        def make(conn: Connection) -> str:
            if wanted.repeated and (made := file_batches.created_by(conn, client_id, _key(wanted), now)):
                return made
            _check_file(conn, client_id, wanted.input_file_id, now)
            insert_batch(conn, new)
            until = now + _REPEATS_SECONDS
            file_batches.note_creation(conn, client_id, _key(wanted), new.id, until)
            return new.id

        batch_id = self._database.write(make)
        if batch_id == new.id:
            self._intakes.submit(batch_id)
        row = self._database.read(lambda conn: get_batch(conn, client_id, batch_id))
        if row is None:
            raise Invalid("the batch was deleted", code="batch_not_found", status=404)
        return row

    def _new(self, client_id: str, wanted: FileBatchRequest, now: float, taker: str) -> NewBatch:
        options = wanted.options
        return NewBatch(
            id=new_id("batch", now),
            client_id=client_id,
            created_at=now,
            expires_at=now + options.expires_in,
            batch_size=options.batch_size,
            callback_url=options.callback_url,
            metadata=as_json(options.metadata, "metadata"),
            endpoint=ENDPOINT,
            input_file_id=wanted.input_file_id,
            completion_window=wanted.completion_window,
            output_expires_seconds=wanted.output_expires_seconds,
            taker=taker,
            asker=to_text(current.get()),
        )


def _key(wanted: FileBatchRequest) -> str:
    return f"repeat:{wanted.fingerprint}"


def _check_file(conn: Connection, client_id: str, file_id: str, now: float) -> None:
    found = files.get_file(conn, client_id, file_id, now) if is_id("file", file_id) else None
    if found is None:
        raise Invalid(
            f"input_file_id: no file {file_id[:80]!r}", param="input_file_id", code="file_not_found"
        )
    if found.purpose != BATCH:
        raise Invalid(
            f"input_file_id: this file is for {found.purpose}, not for batches",
            param="input_file_id",
            code="invalid_file_purpose",
        )
