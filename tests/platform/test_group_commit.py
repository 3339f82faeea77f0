"""Items that are ready at the same time share a transaction; a bad one fails alone."""

from collections.abc import Sequence
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import IntegrityError

from app.platform import group_commit
from app.platform.database import Database, GroupCommit
from app.platform.domain.errors import DatabaseUnreachable
from app.tasks.domain.rows import NewTask
from app.tasks.store.submissions import insert_tasks
from app.tasks.store.tables import task
from tests.stack import wait_until
from tests.tasks.rows import new_task


class Groups:
    """Commits without a database: notes the groups, and can hold one back or fail."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = Event()
        self.go_on = Event()
        self.failure: Exception | None = None

    def commit(self, items: Sequence[str]) -> list[str]:
        self.groups.append(list(items))
        if items == ["first"]:
            self.begun.set()
            self.go_on.wait(60)
        if self.failure is not None and len(self.groups) > 1:
            raise self.failure
        if "bad" in items:
            raise KeyError("bad")
        return [item.upper() for item in items]


def test_after_a_large_group_the_next_is_given_a_moment_to_gather() -> None:
    groups = Groups()
    commits: GroupCommit[str, str] = GroupCommit(groups.commit, gather_seconds=60)
    threads = [Thread(target=commits.submit, args=(item,)) for item in ("first", "b", "c", "d", "e")]
    threads[0].start()
    groups.begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: commits.waiting == 4)
    groups.go_on.set()
    for thread in threads:
        thread.join(60)
    late = [Thread(target=commits.submit, args=(item,)) for item in ("f", "g")]
    for thread in late:
        thread.start()
    wait_until(lambda: commits.waiting == 2)
    assert [len(group) for group in groups.groups] == [1, 4]
    commits.close()  # which ends the moment
    for thread in late:
        thread.join(60)
    assert sorted(groups.groups[2]) == ["f", "g"]


def test_a_group_as_large_as_the_last_one_gathers_no_longer() -> None:
    groups = Groups()
    commits: GroupCommit[str, str] = GroupCommit(groups.commit, gather_seconds=60)
    first, *threads = [Thread(target=commits.submit, args=(item,)) for item in ("first", *"abcdefgh")]
    first.start()
    groups.begun.wait(60)
    for thread in threads[:4]:
        thread.start()
    wait_until(lambda: commits.waiting == 4)
    groups.go_on.set()
    for thread in threads[:4]:
        thread.join(60)
    for thread in threads[4:]:
        thread.start()
    for thread in threads[4:]:
        thread.join(30)
    assert sorted(map(len, groups.groups)) == [1, 4, 4]
    commits.close()


def test_what_follows_a_commit_is_done_before_the_callers_hear_and_its_failure_is_not_theirs() -> None:
    groups, followed = Groups(), list[str]()

    def after(results: Sequence[str]) -> None:
        followed.extend(results)
        raise RuntimeError("Redis, say")

    commits: GroupCommit[str, str] = GroupCommit(groups.commit, after=after)
    assert commits.submit("a") == "A"
    assert followed == ["A"]
    commits.close()


def test_neither_what_follows_nor_a_log_that_is_closed_ends_the_committing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("closed")

    monkeypatch.setattr(group_commit, "log", SimpleNamespace(exception=fail))
    groups = Groups()
    commits: GroupCommit[str, str] = GroupCommit(groups.commit, after=fail)
    assert [commits.submit(item) for item in ("a", "b")] == ["A", "B"]
    commits.close()


def _submit_while_busy(groups: Groups, items: Sequence[str], most: int = 500) -> dict[str, Any]:
    """Submit one item, and while its transaction is open all others; gives back what came of each."""
    commits: GroupCommit[str, str] = GroupCommit(groups.commit, most=most)
    outcomes: dict[str, Any] = {}

    def submit(item: str) -> None:
        try:
            outcomes[item] = commits.submit(item)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            outcomes[item] = error

    threads = [Thread(target=submit, args=(item,)) for item in ("first", *items)]
    threads[0].start()
    groups.begun.wait(60)
    for number, thread in enumerate(threads[1:], start=1):
        thread.start()
        while commits.waiting < number:  # so that their order is known
            pass
    groups.go_on.set()
    for thread in threads:
        thread.join(60)
    commits.close()
    return outcomes


def test_what_waits_at_one_moment_goes_together_and_each_gets_its_own_result() -> None:
    groups = Groups()
    outcomes = _submit_while_busy(groups, ["a", "b", "c"])
    assert groups.groups == [["first"], ["a", "b", "c"]]
    assert outcomes == {"first": "FIRST", "a": "A", "b": "B", "c": "C"}


def test_a_group_is_no_larger_than_said() -> None:
    groups = Groups()
    _submit_while_busy(groups, ["a", "b", "c", "d", "e"], most=2)
    assert groups.groups == [["first"], ["a", "b"], ["c", "d"], ["e"]]


def test_a_bad_item_fails_alone() -> None:
    groups = Groups()
    outcomes = _submit_while_busy(groups, ["a", "bad", "c"])
    assert groups.groups == [["first"], ["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert isinstance(outcomes["bad"], KeyError)
    assert (outcomes["a"], outcomes["c"]) == ("A", "C")


def test_a_database_out_of_reach_is_not_tried_once_for_each_item() -> None:
    groups = Groups()
    groups.failure = DatabaseUnreachable("away", retry_after=7)
    outcomes = _submit_while_busy(groups, ["a", "b"])
    assert groups.groups == [["first"], ["a", "b"]]
    for item in ("a", "b"):
        assert isinstance(outcomes[item], DatabaseUnreachable)
        assert outcomes[item].retry_after == 7


def test_after_a_failure_the_next_items_are_taken() -> None:
    groups = Groups()
    commits: GroupCommit[str, str] = GroupCommit(groups.commit)
    with pytest.raises(KeyError):
        commits.submit("bad")
    assert commits.submit("a") == "A"
    commits.close()


def test_a_closed_one_takes_nothing_more() -> None:
    groups = Groups()
    commits: GroupCommit[str, str] = GroupCommit(groups.commit)
    commits.close()
    with pytest.raises(DatabaseUnreachable):
        commits.submit("a")


def test_two_hundred_threads_share_few_transactions_of_a_real_database(database: Database) -> None:
    transactions: list[Any] = []

    def apply(conn: Connection, rows: Sequence[NewTask]) -> list[int]:
        transactions.append(1)
        return insert_tasks(conn, rows)

    commits: GroupCommit[NewTask, int] = GroupCommit(
        lambda rows: database.write(lambda conn: apply(conn, rows))
    )
    outcomes: dict[str, Any] = {}

    def submit(name: str) -> None:
        try:
            outcomes[name] = commits.submit(new_task(name))
        except IntegrityError as error:
            outcomes[name] = error

    database.write(lambda conn: insert_tasks(conn, [new_task("taken")]))
    names = [*(f"g{number}" for number in range(200)), "taken"]
    threads = [Thread(target=submit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    commits.close()
    stored = database.read(
        lambda conn: {row.id: row.seq for row in conn.execute(select(task.c.id, task.c.seq))}
    )
    assert isinstance(outcomes.pop("taken"), IntegrityError)
    assert {f"task_{name}": seq for name, seq in outcomes.items()} == {
        name: seq for name, seq in stored.items() if name != "task_taken"
    }
    assert database.read(lambda conn: conn.execute(text("SELECT count(*) FROM task_content")).scalar()) == 201
