"""How both databases carry out the statements that run every second, with a large backlog.

PostgreSQL is asked twice: when nothing is known of the backlog yet (it came in a moment ago), and with statistics.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from app.dispatching import store
from app.dispatching.store import degrade
from app.execution.store import workers
from app.execution.store.claims import claim
from app.execution.store.endings import end, record_endings
from app.pacing.store.lines import deadlines, read_line
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.reporting.store import service_queries
from app.tasks.domain.attempt import Claim
from app.tasks.domain.task import Hold
from app.tasks.store import feeding, tasks, transitions
from app.tasks.store.off_peak import off_peak_queues
from app.tasks.store.submissions import insert_tasks
from tests.tasks.rows import DAY, NOW, new_task, permit, success

ROWS = 200_000
QUEUE = "backlog.deepseek-flash.alice"
IDS = [f"task_p{number}" for number in range(0, 100_000, 300)]

Call = Callable[[Connection], Any]
HEADS: dict[str, tuple[Call, str]] = {
    "unfed_queues": (feeding.queues_to_feed, "ix_task_unfed"),
    "take_unfed": (lambda conn: feeding.next_to_feed(conn, QUEUE, 1000), "ix_task_unfed"),
    "any_ordered": (lambda conn: feeding.any_by_deadline(conn, QUEUE), "ix_task_unfed"),
    "read_line": (lambda conn: read_line(conn, QUEUE, 3, 5000), "ix_task_line"),
    "degrade": (lambda conn: degrade(conn, NOW, 500, lambda *_: "{}"), "ix_task_degradable"),
    "waiting_for_windows": (off_peak_queues, "ix_task_off_peak"),
    "deadlines": (lambda conn: deadlines(conn, QUEUE, 3, 5000), "ix_task_line"),
    "next_due": (feeding.next_due, "ix_task_timed"),
    "promote_due": (lambda conn: feeding.promote_due(conn, NOW + 9, 2000), "ix_task_timed"),
    "unfeed_some": (lambda conn: feeding.mark_some_unqueued(conn, 5000), "ix_task_fed"),
    "fed_page": (lambda conn: store.fed_page(conn, (NOW, 5), NOW + 1, 1000), "ix_task_fed"),
    "expire": (lambda conn: store.expire(conn, NOW, 1000), "ix_task_expiry"),
    "waits": (lambda conn: service_queries.waits(conn, NOW), "ix_task_expiry"),
    "work_waits": (service_queries.work_waits, "ix_task_fed"),
    "list_tasks": (lambda conn: tasks.list_tasks(conn, "alice"), "ix_task_client_id_status_seq"),
}
BY_ID: dict[str, Call] = {
    "mark_fed": lambda conn: feeding.mark_fed(conn, IDS, NOW),
    "unfeed": lambda conn: feeding.mark_unqueued(conn, IDS),
    "releases_of": lambda conn: store.releases_of(conn, IDS),
    "ended_among": lambda conn: tasks.ended_among(conn, IDS),
    "cancel_task": lambda conn: transitions.cancel_task(conn, "alice", IDS[0], NOW),
}


# What rows are looked up by.
KEYS = {"uq_task_id", "pk_task", "pk_task_content", "uq_batch_id", "ix_callback_task_id"}
NUMBERS = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last - 1)",
    "postgresql": "WITH n (i) AS (SELECT generate_series(:first, :last - 1))",
}
FILL = f"""
    INSERT INTO task (id, client_id, model, queue, step, status, hold, estimate, created_at, available_at, expires_at,
        fed_at)
    {{numbers}}
    SELECT 'task_p' || i, 'alice', 'deepseek-flash',
        CASE WHEN i % 20 = 19 THEN 'backlog.deepseek-flash.c' || i % 1000 ELSE '{QUEUE}' END, i % 3 * 3, 'queued',
        CASE WHEN i % 10 <> 9 THEN 0 WHEN i % 20 = 9 THEN {Hold.UNTIL} ELSE {Hold.OFF_PEAK} END, 100,
        {NOW}, {NOW} + 60, {NOW + DAY},
        CASE WHEN i % 10 = 8 THEN {NOW} END
    FROM n
"""


@pytest.fixture
def backlog(database: Database) -> Database:
    """200,000 rows: most wait to be fed, a tenth is fed, a tenth waits for its time or for quiet hours."""

    database.write(_fill)
    return database


def _fill(conn: Connection) -> None:
    statement = text(FILL.format(numbers=NUMBERS[conn.dialect.name]))
    for start in range(0, ROWS, 20_000):  # no statement may take long, on the busiest machine either
        conn.execute(statement, {"first": start, "last": start + 20_000})
    conn.execute(
        text("INSERT INTO task_content (seq, request) SELECT seq, '{}' FROM task WHERE id LIKE 'task_p%0'")
    )


def test_with_a_large_backlog_every_statement_reads_what_it_needs_and_no_more(backlog: Database) -> None:
    _check(backlog)
    if backlog.dialect == "postgresql":
        backlog.write(lambda conn: conn.execute(text("ANALYZE")))
        _check(backlog)


def test_plans_that_were_kept_since_the_tables_were_empty_serve_a_large_backlog(postgresql_url: str) -> None:
    """Those of claims, ends and looks: nothing has told the planner that the tables grew."""
    upgrade(postgresql_url)
    database = Database(postgresql_url, pool_size=2)  # one connection of each kind
    for number in range(20):
        _pass_through(database, f"task_kept{number}")
    database.write(_fill)
    kept = database.write_single(_kept_plans)
    _pass_through(database, "task_kept20")
    database.close()
    assert len(kept) == 3, kept
    for statement, plan in kept.items():
        assert not re.search(r"Seq Scan|Hash Join|Merge Join", plan), f"{statement}:\n{plan}"
        assert set(re.findall(r"using (\w+) on", plan)) <= KEYS, f"{statement}:\n{plan}"
        assert not re.search(r"using \w+ on .*\n *(?! |Index Cond)", plan), (
            f"a whole index:\n{statement}:\n{plan}"
        )


def _pass_through(database: Database, name: str) -> None:
    """A task from its submission to its end."""
    row = new_task(name.removeprefix("task_"))
    database.write(lambda conn: insert_tasks(conn, [row]))
    claimed = database.write_single(lambda conn: claim(conn, [Claim(permit(name), "w1", NOW)]))
    assert record_endings(database, [success(claimed[name])])[0].held
    assert database.glance(lambda conn: tasks.get_task(conn, "alice", name)) is not None


def _kept_plans(conn: Connection) -> dict[str, str]:
    """What this connection has planned for good: each statement and its plan."""
    kept = text("SELECT name, statement FROM pg_prepared_statements WHERE generic_plans > 0")
    return {row.statement: _plan_of(conn, row.name, row.statement) for row in conn.execute(kept)}


def _plan_of(conn: Connection, name: str, statement: str) -> str:
    """Parameters do not matter: the plan is the same for all of them."""
    nothing = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", statement))))
    return "\n".join(row[0] for row in conn.exec_driver_sql(f"EXPLAIN EXECUTE {name}({nothing})"))


def _check(database: Database) -> None:
    for name, (call, index) in HEADS.items():
        plan = _plan(database, call)
        assert index in plan, f"{name}:\n{plan}"
        assert not _reads_everything(plan), f"{name}:\n{plan}"
        assert not _sorts(plan) or name in ("expire", "list_tasks"), f"{name}:\n{plan}"
    for name, call in BY_ID.items():
        plan = _plan(database, call)
        assert _looks_up_by_id(plan), f"{name}:\n{plan}"
        assert not _reads_everything(plan), f"{name}:\n{plan}"
    plan = _plan(database, _work)
    assert not _reads_everything(plan), plan


def _work(conn: Connection) -> None:
    """What workers do, and what is done about a lost one."""
    claimed = claim(conn, [Claim(permit(name), "w1", NOW) for name in IDS])
    assert len(claimed) == len(IDS)
    end(conn, [success(item) for item in list(claimed.values())[:200]])
    workers.beat(conn, "w1", [], NOW)
    store.running_rows(conn)
    store.lose(conn, "w1", NOW, 100)


def _plan(database: Database, call: Call) -> str:
    """The plans of all statements on tasks that a call makes; the call itself is taken back."""

    def explain(conn: Connection) -> str:
        statements: list[tuple[str, Any]] = []

        def note(
            _conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
        ) -> None:
            if not many and not statement.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN")):
                statements.append((statement, parameters))

        event.listen(conn, "before_cursor_execute", note)
        before = conn.begin_nested()
        call(conn)
        before.rollback()
        event.remove(conn, "before_cursor_execute", note)
        word = "EXPLAIN" if conn.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        rows = (conn.exec_driver_sql(f"{word} {statement}", values).all() for statement, values in statements)
        plans = ["\n".join(str(row[-1]) for row in plan) for plan in rows]
        return "\n".join(plan for plan in plans if "task" in plan)

    return database.write(explain)


def _looks_up_by_id(plan: str) -> bool:
    return "uq_task_id" in plan or "sqlite_autoindex_task_1 (id=?)" in plan


def _reads_everything(plan: str) -> bool:
    """PostgreSQL reads the table, or SQLite a table or a whole index."""
    sqlite = [line for line in plan.splitlines() if line.startswith(("SCAN task", "SCAN task_content"))]
    return "Seq Scan on task" in plan or any(" USING " not in line or "COVERING" in line for line in sqlite)


def _sorts(plan: str) -> bool:
    return "Sort" in plan or "TEMP B-TREE" in plan
