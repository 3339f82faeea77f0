"""Limits that are counted hold when several processes count at once, and from a client's first request on."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from threading import Barrier, BrokenBarrierError

import pytest
from sqlalchemy import Connection, func, select

from app.access.domain.caller import NO_LIMITS, ClientLimits
from app.access.manage_clients import add_client, change_client
from app.access.manage_policies import PolicyBook
from app.access.store.access_tables import budget_use
from app.billing.domain.budget import Spent
from app.billing.store.budgets import settle_ended
from app.platform.database import Database
from app.platform.domain.errors import OverLimit
from app.platform.ports import SystemClock
from app.submission.admit import Admission, LimitsBook
from app.tasks.store.retention import delete_marked, mark_deleted
from app.tasks.store.submissions import insert_tasks
from app.tasks.store.tables import task
from app.tasks.store.transitions import cancel_task
from tests.platform.transactions import in_threads
from tests.tasks.rows import NOW, new_task

LONGEST = {"deepseek-pro": 9000}
_numbers = count(1)


class StoppedClock(SystemClock):
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 1.0


def admission(database: Database) -> Admission:
    """What one process decides by."""
    clock = StoppedClock()
    policies = PolicyBook(database, clock, "allow")
    return Admission(policies, LimitsBook(database, clock), clock, {}, lambda *_: None, LONGEST)


@pytest.fixture
def pair(database: Database, migrated_url: str) -> Iterator[tuple[Database, Database]]:
    other = Database(migrated_url)
    yield database, other
    other.close()


def client(database: Database, limits: ClientLimits) -> str:
    return add_client(database, StoppedClock(), f"client-{next(_numbers)}", limits=limits).id


def waiting(database: Database) -> int:
    return database.read(lambda conn: conn.execute(select(func.count()).select_from(task)).scalar_one())


@pytest.mark.parametrize("whole", [True, False], ids=["batches", "singles"])
def test_most_waiting_holds_over_two_processes(pair: tuple[Database, Database], whole: bool) -> None:
    """Both have stored or are about to, and neither has committed, when they count."""
    name, met = client(pair[0], ClientLimits(most_waiting=10)), Barrier(2)

    def meet() -> None:
        with suppress(BrokenBarrierError):  # where one waits for the other they never meet
            met.wait(0.5)

    def submit(database: Database) -> None:
        decide = admission(database)

        def store(conn: Connection) -> None:
            rows = [new_task(client_id=name) for _ in range(8)]
            if whole:
                insert_tasks(conn, rows)
                meet()
                decide.take_batch(conn, name, Spent(), NOW)
            else:
                meet()
                refused = decide.take(conn, rows)
                insert_tasks(conn, [row for row in rows if row.id not in refused])
            meet()

        database.write(store)

    outcomes = in_threads(*(lambda database=database: submit(database) for database in pair))
    assert waiting(pair[0]) == (8 if whole else 10)
    assert [isinstance(one, OverLimit) for one in outcomes].count(True) == (1 if whole else 0)


def test_a_new_client_has_its_limits_from_its_first_request_on(database: Database) -> None:
    decide = admission(database)
    assert not decide.counts(client(database, NO_LIMITS))  # all clients have been read
    name = client(database, ClientLimits(tokens_per_day=2000))
    assert decide.counts(name)
    assert decide.draft(new_task(client_id=name)).reserved_tokens is not None


def test_limits_that_this_process_has_changed_hold_at_once(database: Database) -> None:
    decide, name = admission(database), client(database, NO_LIMITS)
    assert not decide.counts(name)
    change_client(database, name, {"limits": ClientLimits(most_waiting=1)})
    decide.forget()
    assert decide.counts(name)


@pytest.mark.parametrize(
    ("model", "request_", "tokens"),
    [
        ("deepseek-flash", '{"messages":[]}', 100 - 512 + 4096),
        ("deepseek-flash", '{"messages":[],"n":2}', 100 + 2 * (4096 - 512)),
        ("deepseek-pro", '{"messages":[]}', 100 - 512 + 9000),
        ("deepseek-flash", '{"messages":[],"max_tokens":7}', 100),
    ],
)
def test_a_budget_reserves_a_whole_answer_where_its_length_is_open(
    database: Database, model: str, request_: str, tokens: int
) -> None:
    name = client(database, ClientLimits(tokens_per_day=10**9))
    row = new_task(client_id=name, model=model, request=request_)
    assert admission(database).draft(row).reserved_tokens == tokens


def test_a_task_that_is_deleted_at_once_gives_its_reservation_back(database: Database) -> None:
    name, decide = client(database, ClientLimits(tokens_per_day=10_000)), admission(database)
    row = decide.draft(new_task(client_id=name))

    def store(conn: Connection) -> None:
        insert_tasks(conn, list(decide.take(conn, [row]).values()))  # type: ignore[misc]

    database.write(store)
    database.write(lambda conn: cancel_task(conn, name, row.id, NOW))
    assert database.write(lambda conn: mark_deleted(conn, name, row.id, NOW))
    database.write(lambda conn: delete_marked(conn, 10))
    database.write(lambda conn: settle_ended(conn, 10))
    database.write(lambda conn: delete_marked(conn, 10))
    assert waiting(database) == 0
    used = select(budget_use.c.tokens).where(budget_use.c.client_id == name)
    assert database.read(lambda conn: conn.execute(used).scalars().all()) == [0, 0]
