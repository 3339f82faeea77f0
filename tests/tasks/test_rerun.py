"""Failed tasks run again: single ones and lines of batches by the same rules."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, update

from app.platform.database import Database
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import NOT_DUE, Hold
from app.tasks.store.rerun import last_failed_line, rerun_lines, rerun_task
from app.tasks.store.tables import task
from tests.tasks.rows import DAY, NOW, add, add_batch, all_of, new_task

LATER = NOW + 100
MODELS = ["deepseek-flash"]
OWN = {"asked": 700, "due": NOW + DAY, "degrade_at": NOW + 30, "facts": "1;a:0-", "prefix": "p"}


def as_it_is(_: Connection, rows: Sequence[NewTask]) -> Sequence[NewTask]:
    """Admission that admits all."""
    return rows


def set_rows(database: Database, **values: Any) -> None:
    """Set columns of all tasks."""
    database.write(lambda conn: conn.execute(update(task).values(status="failed", **values)))


def lines(database: Database) -> int:
    """Run the failed lines of the batch again."""
    last = database.read(lambda conn: last_failed_line(conn, "batch_1", MODELS))
    if last is None:
        return 0
    return database.write(lambda conn: rerun_lines(conn, "batch_1", MODELS, last, LATER, 10, as_it_is))


def single(database: Database, name: str) -> str | None:
    """Run one task again."""
    return database.write(lambda conn: rerun_task(conn, name, LATER, as_it_is))


def test_a_task_that_is_run_again_keeps_what_its_request_asked_for(database: Database) -> None:
    old = new_task(**OWN, stream=True, cache_key="client:alice:k", cache_look=True, cache_seconds=9.0)
    add(database, old)
    set_rows(database)
    name = single(database, old.id)
    before, after = all_of(database, task)
    assert (before.replaced_by, after.id, after.status, after.hold) == (name, name, "queued", Hold.NONE)
    assert (after.asked, after.facts, after.prefix) == (700, "1;a:0-", "p")
    assert (after.due, after.degrade_at) == (after.expires_at, LATER + 30 - (old.created_at - NOW))
    assert (after.stream, after.cache_key, after.batch_id) == (False, None, None)


def test_a_task_is_replaced_once(database: Database) -> None:
    old = new_task()
    add(database, old)
    set_rows(database)
    assert single(database, old.id) is not None
    assert single(database, old.id) is None
    assert all_of(database, task)[1].due == NOT_DUE


@pytest.mark.parametrize("gone", ["erased_at", "deleted_at"])
def test_what_is_no_longer_kept_is_not_run_again(database: Database, gone: str) -> None:
    alone = new_task()
    add_batch(database, 1)
    add(database, alone)
    set_rows(database, **{gone: NOW})
    assert single(database, alone.id) is None
    assert lines(database) == 0
    assert len(all_of(database, task)) == 2


def test_a_failed_line_is_run_again_within_its_batch(database: Database) -> None:
    (old,) = add_batch(database, 1, task={"asked": 700})
    set_rows(database)
    assert (lines(database), lines(database)) == (1, 0)
    before, after = all_of(database, task)
    assert (before.id, before.replaced_by) == (old, after.id)
    assert (after.batch_id, after.batch_index, after.asked, after.hold) == ("batch_1", 0, 700, Hold.NONE)
