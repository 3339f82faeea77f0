"""Lines as the database has them, and starts that were foretold."""

from __future__ import annotations

from app.pacing.domain.throughput import StartEstimate
from app.pacing.store.lines import read_line, start_estimates
from app.platform.database import Database
from app.tasks.domain.task import NOT_DUE, Hold
from tests.tasks.rows import NOW, add, new_task, record, success, take

QUEUE = "backlog.deepseek-flash.alice"


def test_a_line_holds_what_may_run_of_one_queue_and_priority_deadlines_first(database: Database) -> None:
    plain, late, soon, *_ = add(
        database,
        new_task("plain", fed_at=NOW),
        new_task("late", due=NOW + 90),
        new_task("soon", due=NOW + 30),
        new_task("low", step=6),
        new_task("held", hold=Hold.UNTIL),
        new_task("bobs", queue="backlog.deepseek-flash.bob"),
    )
    (newest,) = add(database, new_task("running"))
    take(database, "task_running")
    line = database.read(lambda conn: read_line(conn, QUEUE, 3, 10))
    assert line.marks == [(NOW + 30, soon), (NOW + 90, late), (NOT_DUE, plain)]
    assert (line.whole, line.newest) == (True, newest)
    assert not database.read(lambda conn: read_line(conn, QUEUE, 3, 2)).whole


def test_what_was_foretold_is_kept_beside_what_came(database: Database) -> None:
    add(database, new_task("a", estimated_start_at=NOW + 7), new_task("b"), new_task("c"))
    add(database, new_task("bobs", client_id="bob"))
    for name in ("task_a", "task_b", "task_bobs"):
        for claimed in take(database, name, at=NOW + 9).values():
            record(database, success(claimed))
    found = database.read(lambda conn: start_estimates(conn, "alice", 10))
    assert found == [StartEstimate(NOW, None, NOW + 9), StartEstimate(NOW, NOW + 7, NOW + 9)]
