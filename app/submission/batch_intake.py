"""A batch on its way in: tasks are checked one by one and stored, held, in chunks, so that little is in memory.

Bodies (`submit_batch.py`) and files (`take_in_file.py`) come in this way. A held task is neither seen nor run until the
caller's last transaction releases the batch.

An intake belongs to the thread that reads the requests. One thread behind it (`PipelinedWriter`) stores a chunk while
the next is read; the two share nothing but the chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from app.access.domain.caller import NO_LIMITS
from app.billing.domain.budget import Spent
from app.pacing.ports import Explain
from app.platform.background_loop import PipelinedWriter
from app.platform.database import Database
from app.platform.domain.errors import Invalid, Rejected
from app.submission.admit import Admission
from app.submission.check_request import Place, SubmissionRules, draft_task, estimate_start
from app.submission.domain.request import TaskRequest
from app.submission.file_batches import RefusedLine, insert_refused
from app.tasks.domain.rows import NewTask
from app.tasks.ports import Meter
from app.tasks.store.submissions import insert_tasks

MOST_TASKS = 1_000_000  # of one batch
TOO_MANY = "too_many_requests"  # the code of the error
CHUNK_ROWS = 1_000
_CHUNK_CHARACTERS = 4 * 1024 * 1024


class BatchChecks:
    """What holds between the requests of a batch: how many they are, and that no two have one custom id."""

    def __init__(self) -> None:
        self.count = 0
        self._names: set[int] = set()  # hashes: eight bytes each instead of up to 512

    def check(self, custom_id: str | None, param: str) -> None:
        """Count one more request; `param` names the field of its custom id. Raises Invalid."""
        if self.count >= MOST_TASKS:
            raise Invalid(
                f"requests: more than {MOST_TASKS} in one batch", param="requests", code=TOO_MANY, status=413
            )
        digest = None if custom_id is None else hash(custom_id)
        if digest in self._names:
            raise Invalid(
                f"{param}: an earlier request has this custom_id", param=param, code="duplicate_custom_id"
            )
        if digest is not None:
            self._names.add(digest)
        self.count += 1


def _admitted(admission: Admission, row: NewTask, place: Place) -> NewTask:
    """Raises what admission refuses, by the place of the field in the batch."""
    try:
        return admission.draft(row)
    except Rejected as error:
        if error.param is not None:
            error.param = f"{place.within}{error.param}"
            error.message = f"{error.param}: {error.message}"
        raise


@dataclass(slots=True)
class _Chunk:
    rows: list[NewTask] = field(default_factory=list)
    refused: list[RefusedLine] = field(default_factory=list)
    characters: int = 0

    @property
    def full(self) -> bool:
        return len(self.rows) + len(self.refused) >= CHUNK_ROWS or self.characters >= _CHUNK_CHARACTERS


class BatchIntake:
    """Whoever makes one must `settle` it: a chunk may be under way."""

    def __init__(
        self,
        database: Database,
        rules: SubmissionRules,
        admission: Admission | None,
        *,
        client_id: str,
        first: Place,
        now: float,
        begin: Callable[[Connection], None],
        trace: str | None = None,
        explain: Explain | None = None,
    ) -> None:
        """`first`: the place of the first task; `now`: when the tasks are created, Unix seconds.

        `begin` opens each transaction: it makes the batch's row, or makes sure that it is still ours. With `explain`
        each task gets an estimate of its start.
        """
        self._database = database
        self._rules = rules
        self._admission = admission
        self._client_id = client_id
        self._first = first
        self._now = now
        self._begin = begin
        self._trace = trace
        self._explain = explain
        self._checks = BatchChecks()
        self._chunk = _Chunk()
        self._writer = PipelinedWriter()
        self._reserved = Spent()  # what all of it may use of a budget
        self.models: Counter[str] = Counter()  # tasks that will run, by model
        self.refused = 0  # lines that will not
        self.stored = False  # whether a chunk is in the database
        self.failed = False  # the batch will be refused: go on checking, store nothing more

    @property
    def total(self) -> int:
        """How many requests have come so far."""
        return self._checks.count

    def add(self, request: TaskRequest) -> None:
        """Check the next request and keep its task. Raises Invalid, and what admission refuses."""
        place = replace(self._first, index=self.total)
        self._checks.check(request.custom_id, place.custom_id_param)
        limits = NO_LIMITS if self._admission is None else self._admission.limits_of(self._client_id)
        row = draft_task(request, self._client_id, self._rules, self._now, place, limits)
        row.trace = self._trace
        if self._admission is not None:
            row = _admitted(self._admission, row, place)
            self._reserved += Spent(row.reserved_tokens or 0, row.reserved_picos or 0)
        if self._explain is not None:
            estimate_start(row, self._explain, self._now)
        self.models[row.model] += 1
        self._chunk.rows.append(row)
        self._chunk.characters += len(row.request)

    def count_refused(self, custom_id: str) -> None:
        """Count a request that `add` cannot take. Raises Invalid."""
        self._checks.check(custom_id, replace(self._first, index=self.total).custom_id_param)

    def refuse(self, line: RefusedLine) -> None:
        """Keep a line that has failed already; its request was counted by `add` or `count_refused`."""
        self.refused += 1
        self._chunk.refused.append(line)
        self._chunk.characters += len(line.request)

    def store_full_chunk(self) -> bool:
        """Begin to store what has come, if that is a chunk. Raises what storing the chunk before raised."""
        if not self._chunk.full:
            return False
        chunk, self._chunk = self._chunk, _Chunk()
        if not self.failed:
            self._writer.do(lambda: self._store(chunk))
        return True

    def settle(self) -> None:
        """Wait until no chunk is under way. Raises what storing the last one raised, once."""
        self._writer.settle()

    def insert_rest(self, conn: Connection, now: float) -> None:
        """Store the last chunk and count all of it against its client's limits, in the releasing transaction.

        Raises OverBudget, OverLimit.
        """
        self._insert(conn, self._chunk)
        if self._admission is not None:
            self._admission.take_batch(conn, self._client_id, self._reserved, now)

    def count(self, meter: Meter, way: str) -> None:
        """Count its tasks as submitted."""
        for model, count in self.models.items():
            meter.submitted(way, self._client_id, model, count)

    def _store(self, chunk: _Chunk) -> None:
        self._database.write(lambda conn: self._insert(conn, chunk))
        self.stored = True

    def _insert(self, conn: Connection, chunk: _Chunk) -> None:
        self._begin(conn)
        insert_tasks(conn, chunk.rows)
        insert_refused(conn, chunk.refused)
