"""The ledger: entries stand with the ends they tell of, folding changes no sum."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select

from app.billing.domain.usage import FIGURES, Heading, UsageEntry, UsageFigures, UsageFilter
from app.billing.store.usage import fold_usage, report, usage_day, usage_entry, write_usage
from app.platform.database import Database
from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage
from app.tasks.store.tables import attempt, task, task_content
from tests.tasks.rows import add, again, failure, new_task, record, success, take, unsent

# Each example takes many transactions: what fails is shown as it was found.
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
ALL = UsageFilter("0000", "9999")
figures = st.builds(UsageFigures, **{name: st.integers(0, 10**12) for name in FIGURES})
headings = st.builds(
    Heading,
    day=st.sampled_from(["2026-11-20", "2026-11-21"]),
    client_id=st.sampled_from(["alice", "bob"]),
    model=st.sampled_from(["a", "b"]),
    key=st.sampled_from(["", "k1"]),
    currency=st.sampled_from(["", "USD", "CNY"]),
)
entries = st.lists(st.builds(UsageEntry, headings, figures), max_size=12)


def sums(database: Database, **wanted: Any) -> list[dict[str, Any]]:
    given_wish = {"first_day": "0000", "last_day": "9999", **wanted}
    return database.read(lambda conn: report(conn, UsageFilter(**given_wish)))


def count(database: Database, table: Any) -> int:
    return database.read(lambda conn: conn.execute(select(func.count()).select_from(table)).scalar_one())


@settings(max_examples=8, phases=QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries, st.integers(1, 5))
def test_folding_changes_no_report(database: Database, written: list[UsageEntry], piece: int) -> None:
    for table in (usage_entry, usage_day):
        database.write(lambda conn, table=table: conn.execute(delete(table)))
    database.write(lambda conn: write_usage(conn, written))
    wishes = [
        {},
        {"by": ("day", "client_id", "model", "key")},
        {"client_id": "bob"},
        {"first_day": "2026-11-21"},
    ]
    before = [sums(database, **wish) for wish in wishes]
    while folded := database.write(lambda conn: fold_usage(conn, piece)):
        assert folded <= piece
        assert sums(database) == before[0]
    assert [sums(database, **wish) for wish in wishes] == before
    assert count(database, usage_entry) == 0
    assert sum(row["cost"] for row in before[0]) == sum(entry.figures.cost for entry in written)


def test_one_transaction_writes_one_entry_for_a_heading(database: Database) -> None:
    add(database, *(new_task(f"{n}") for n in range(20)))
    claimed = take(database, *(f"task_{n}" for n in range(20)))
    record(database, *(success(one) for one in claimed.values()))
    assert count(database, usage_entry) == 1
    (row,) = sums(database, by=("client_id", "model", "key", "account", "upstream_model", "day"))
    assert (row["client_id"], row["model"], row["key"], row["account"]) == (
        "alice",
        "deepseek-flash",
        "main",
        "acme",
    )
    assert (row["day"], row["upstream_model"], row["currency"]) == ("2027-01-15", "deepseek-chat", "USD")
    assert (row["tasks"], row["calls"], row["cost"], row["prompt_tokens"]) == (20, 20, 240, 140)


def test_every_call_counts_and_what_was_never_sent_does_not(database: Database) -> None:
    add(database, new_task("1"), new_task("2"))
    record(database, again(take(database, "task_1")["task_1"], available_at=None))
    record(database, unsent(take(database, "task_1", release=2)["task_1"]))
    record(
        database, success(take(database, "task_1", release=3)["task_1"], usage=TokenUsage(1, 1), cost=None)
    )
    record(database, failure(take(database, "task_2")["task_2"]))
    (row,) = sums(database)
    assert (row["currency"], row["calls"], row["tasks"], row["unpriced_calls"], row["cost"]) == (
        "",
        3,
        1,
        1,
        0,
    )


def test_an_ending_that_is_recorded_twice_is_paid_once(database: Database) -> None:
    add(database, new_task("1"))
    ending = success(take(database, "task_1")["task_1"])
    record(database, ending)
    record(database, ending)
    assert [row["cost"] for row in sums(database)] == [12]


def test_currencies_are_reported_apart_and_clients_too(database: Database) -> None:
    add(database, new_task("1"), new_task("2", client_id="bob"), new_task("3"))
    claimed = take(database, "task_1", "task_2", "task_3")
    record(database, success(claimed["task_1"]), success(claimed["task_2"], cost=CallCost(5, "CNY")))
    record(database, success(claimed["task_3"]))
    assert [(row["currency"], row["cost"]) for row in sums(database)] == [("CNY", 5), ("USD", 24)]
    assert [(row["currency"], row["cost"]) for row in sums(database, client_id="bob")] == [("CNY", 5)]
    by_client = [(row["client_id"], row["cost"]) for row in sums(database, by=("client_id",))]
    assert by_client == [("bob", 5), ("alice", 24)] or by_client == [("alice", 24), ("bob", 5)]


outcomes = st.lists(
    st.lists(st.sampled_from(["again", "usd", "cny", "unknown", "fail"]), max_size=4), max_size=5
)


@pytest.mark.parametrize("fold", [False, True])
@settings(max_examples=8, phases=QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_sum_of_costs_of_tasks_is_that_of_attempts_and_of_the_report(
    database: Database, fold: bool, data: st.DataObject
) -> None:
    for table in (usage_entry, usage_day, attempt, task, task_content):
        database.write(lambda conn, table=table: conn.execute(delete(table)))
    for number, lives in enumerate(data.draw(outcomes)):
        name = f"task_{data.draw(st.uuids())}_{number}"
        add(database, new_task(name.removeprefix("task_")))
        for release, life in enumerate(lives, 1):
            claimed = take(database, name, release=release).get(name)
            if claimed is not None:
                record(database, _life(life, claimed, data.draw(st.integers(0, 10**9))))
    if fold:
        database.write(lambda conn: fold_usage(conn, 3))
    for currency in ("USD", "CNY"):
        reported = sum(row["cost"] for row in sums(database) if row["currency"] == currency)
        of_attempts = _sum(database, attempt, currency)
        apart = sum(
            row.cost_picos or 0
            for row in database.read(lambda conn: conn.execute(select(attempt)).all())
            if row.currency == currency and row.task_id in _without_sum(database)
        )
        assert reported == of_attempts == _sum(database, task, currency) + apart


def _life(life: str, claimed: Any, picos: int) -> Any:
    if life == "again":
        return again(claimed, available_at=None)
    if life == "fail":
        return failure(claimed)
    cost = {"usd": CallCost(picos, "USD"), "cny": CallCost(picos, "CNY"), "unknown": None}[life]
    return again(claimed, available_at=None, usage=TokenUsage(3, 4), cost=cost)


def _sum(database: Database, table: Any, currency: str) -> int:
    found = select(func.coalesce(func.sum(table.c.cost_picos), 0)).where(table.c.currency == currency)
    return int(database.read(lambda conn: conn.execute(found).scalar_one()))


def _without_sum(database: Database) -> set[str]:
    found = select(task.c.id).where(task.c.currency == "?")
    return set(database.read(lambda conn: conn.execute(found).scalars().all()))
