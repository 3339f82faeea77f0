"""What a rehearsal reads: counts of what waits, and the newest calls."""

from __future__ import annotations

from app.diagnosis.simulate_load import CallRow, WaitingRows, latest_calls, waiting_rows
from app.platform.database import Database
from tests.tasks import rows


def test_what_waits_is_counted_by_list_and_calls_come_with_their_seconds_and_tokens(
    database: Database,
) -> None:
    names = [f"task_{n}" for n in range(3)]
    rows.add(database, *(rows.new_task(name.removeprefix("task_"), estimate=100) for name in names))
    rows.add(database, rows.new_task("high", step=0, estimate=300))
    taken = rows.take(database, names[0])
    rows.record(database, rows.success(taken[names[0]], at=rows.NOW + 2))
    assert database.read(waiting_rows) == [
        WaitingRows("deepseek-flash", "alice", 0, 1, 300.0),
        WaitingRows("deepseek-flash", "alice", 3, 2, 100.0),
    ]
    (call,) = database.read(lambda conn: latest_calls(conn, 10))
    assert call == CallRow("main", "deepseek-chat", "succeeded", 2.0, 7, 5, 2)
