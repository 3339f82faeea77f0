"""Lines as the database has them, and starts that were foretold."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.backlog import QueuePosition
from app.pacing.domain.throughput import StartEstimate
from app.pacing.store import lines
from app.pacing.store.lines import count_line, read_line, start_estimates
from app.platform.database import Database
from app.tasks.domain.task import NOT_DUE, Hold
from tests.caching.clocks import MovableClock
from tests.tasks.rows import NOW, add, new_task, record, row_of, success, take

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


def test_the_last_of_a_long_line_is_counted_though_others_came_between(database: Database) -> None:
    """Sequence numbers are dense where its tasks came alone, and thin where others came between."""
    dense = add(database, *(new_task(f"a{n}", fed_at=NOW) for n in range(30)))
    for n in range(15):
        add(database, *(new_task(f"o{n}-{m}", queue="backlog.deepseek-flash.bob") for m in range(4)))
        add(database, new_task(f"b{n}", fed_at=NOW))
    far = database.read(lambda conn: count_line(conn, QUEUE, 3, 10))
    assert [before for _, before in far] == [0, 10, 20, 30, 40, 44]
    line = replace(database.read(lambda conn: read_line(conn, QUEUE, 3, 20)), far=far)
    last = row_of(database, "task_b14").seq
    assert line.ahead_of(NOT_DUE, last) == 44
    assert line.ahead_of_new(NOT_DUE) == 45
    assert [line.ahead_of(NOT_DUE, seq) for seq in (dense[0], dense[19])] == [0, 19]
    assert abs(line.ahead_of(NOT_DUE, row_of(database, "task_b5").seq) - 35) <= 2


@given(st.lists(st.integers(1, 50), min_size=30, max_size=300), st.integers(0, 20), st.data())
def test_places_beyond_the_marks_are_within_one_stride_also_after_some_have_left(
    steps: list[int], gone: int, data: st.DataObject
) -> None:
    seqs = list(accumulate(steps))
    far = [((NOT_DUE, seq), n) for n, seq in enumerate(seqs) if n % 10 == 0 or n == len(seqs) - 1]
    left = seqs[gone:]
    line = QueuePosition([(NOT_DUE, seq) for seq in left[:5]], len(left) <= 5, seqs[-1], far)
    place = data.draw(st.integers(0, len(left) - 1))
    assert abs(line.ahead_of(NOT_DUE, left[place]) - place) <= 10
    assert abs(line.ahead_of(NOT_DUE, left[-1]) - (len(left) - 1)) <= 10


def test_a_line_is_counted_now_and_then_however_many_ask(database: Database, monkeypatch: Any) -> None:
    monkeypatch.setattr(lines, "_MARKS", 3)
    add(database, *(new_task(f"a{n}", fed_at=NOW) for n in range(9)))
    clock, counted = MovableClock(), []
    original = lines.count_line
    monkeypatch.setattr(lines, "count_line", lambda *args: counted.append(1) or original(*args))
    known = lines.Lines(database, clock)
    for seconds in (0.0, 3.0, 6.0, 9.0, 12.0):
        clock.ahead = seconds
        for _ in range(5):
            place = known.of(QUEUE, 3)
            assert place is not None
            assert place.ahead_of(NOT_DUE, row_of(database, "task_a8").seq) == 8
    assert len(counted) == 2
