"""The one way in for batch bodies and files: what is checked between requests, and how much is in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Invalid
from app.submission import batch_intake
from app.submission.batch_intake import CHUNK_ROWS, BatchChecks, BatchIntake
from app.submission.check_request import Place, SubmissionRules
from app.submission.domain.request import BatchRequest, TaskRequest

NOW = 1_800_000_000.0
SAID = [{"role": "user", "content": "x"}]


class CountingDatabase:
    """Takes chunks and stores nothing."""

    def __init__(self) -> None:
        self.writes = 0

    def write(self, _: Callable[[Connection], object]) -> None:
        self.writes += 1


def begin(database: CountingDatabase, *, in_file: bool) -> BatchIntake:
    return BatchIntake(
        cast("Database", database),
        SubmissionRules(frozenset({"m"}), "m"),
        None,
        client_id="alice",
        first=Place("batch_1", 0, BatchRequest(), NOW + 3600, in_file=in_file),
        now=NOW,
        begin=lambda _: None,
    )


def fill(intake: BatchIntake, count: int) -> None:
    for number in range(count):
        intake.add(TaskRequest(SAID, custom_id=f"n{number}"))
        intake.store_full_chunk()
    intake.settle()


@pytest.mark.parametrize(("failed", "writes"), [(False, 2), (True, 0)])
def test_chunks_leave_memory_and_those_of_a_refused_batch_are_not_stored(failed: bool, writes: int) -> None:
    database = CountingDatabase()
    intake = begin(database, in_file=True)
    intake.failed = failed
    fill(intake, 2 * CHUNK_ROWS + 5)
    assert (database.writes, intake.stored, intake.total) == (writes, not failed, 2 * CHUNK_ROWS + 5)
    assert len(intake._chunk.rows) == 5


@pytest.mark.parametrize(
    ("in_file", "wrong", "param"),
    [
        (False, {"custom_id": "n0"}, "requests[1].custom_id"),
        (True, {"custom_id": "n0"}, "custom_id"),
        (False, {"model": "other"}, "requests[1].model"),
        (True, {"model": "other"}, "body.model"),
        (True, {"retry": "other"}, "body.retry"),
    ],
)
def test_an_error_names_the_field_where_its_author_wrote_it(
    in_file: bool, wrong: dict[str, Any], param: str
) -> None:
    intake = begin(CountingDatabase(), in_file=in_file)
    fill(intake, 1)
    with pytest.raises(Invalid) as raised:
        intake.add(TaskRequest(SAID, **wrong))
    assert raised.value.param == param
    assert raised.value.message.startswith(f"{param}: ")


def test_a_batch_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_intake, "MOST_TASKS", 2)
    checks = BatchChecks()
    checks.check(None, "")
    checks.check(None, "")
    with pytest.raises(Invalid) as raised:
        checks.check(None, "")
    assert (raised.value.status, raised.value.code) == (413, "too_many_requests")
