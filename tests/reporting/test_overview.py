"""What the dashboard reads of a large backlog: right figures, by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, text

from app.access.store import clients
from app.platform.database import Database
from app.reporting.store import service_queries
from tests.platform.test_plans import FILL, NUMBERS, QUEUE, _plan, _reads_everything
from tests.tasks.rows import NOW

ROWS = 60_000

READS: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "waiting_by_client": (lambda conn: service_queries.waiting_by_client(conn, 10**6), "ix_task"),
    "unfed_by_queue": (lambda conn: service_queries.unfed_by_queue(conn, 10**6), "ix_task_unfed"),
    "fed_by_queue": (lambda conn: service_queries.fed_by_queue(conn, 1000), "ix_task_fed"),
    "running": (lambda conn: service_queries.running(conn, NOW), "ix_task_running"),
    "recent_failures": (
        lambda conn: service_queries.recent_failures(conn, None, 100),
        "ix_task_client_id_status_seq",
    ),
    "latest_tasks": (
        lambda conn: service_queries.latest_tasks(conn, "alice", 10),
        "ix_task_client_id_status_seq",
    ),
}


COUNTS = ("waiting_by_client", "unfed_by_queue")


def _fill(conn: Connection) -> None:
    clients.add_client(conn, "alice", "whsec_x", NOW)
    conn.execute(text(FILL.format(numbers=NUMBERS[conn.dialect.name])), {"first": 0, "last": ROWS})
    conn.execute(text("UPDATE task SET status = 'failed' WHERE seq % 1000 = 1"))


def test_counts_are_right_bounded_and_read_by_index(database: Database) -> None:
    database.write(_fill)
    failed = ROWS // 1000
    assert database.read(lambda conn: service_queries.waiting_by_client(conn, 10**6)) == {
        "alice": ROWS - failed
    }
    assert database.read(lambda conn: service_queries.waiting_by_client(conn, 500)) == {"alice": 500}
    assert database.read(lambda conn: service_queries.unfed_by_queue(conn, 500)) == {QUEUE: 500}
    assert database.read(lambda conn: service_queries.fed_by_queue(conn, 500)) == {QUEUE: 500}
    assert len(database.read(lambda conn: service_queries.recent_failures(conn, None, 100))) == failed
    assert len(database.read(lambda conn: service_queries.latest_tasks(conn, None, 10))) == 10
    if database.dialect == "postgresql":
        database.write(lambda conn: conn.execute(text("ANALYZE")))
    for name, (read, index) in READS.items():
        plan = _plan(database, read)
        assert index in plan, f"{name}:\n{plan}"
        assert not _reads_everything(plan), f"{name}:\n{plan}"
        if name in COUNTS:  # of a million rows: in the order of the index, or it would be sorted first
            assert "Sort" not in plan, f"{name}:\n{plan}"
            assert "TEMP B-TREE" not in plan, f"{name}:\n{plan}"
