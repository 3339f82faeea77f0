"""Rows on their way into backlog queues."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from app.dispatching import reconcile
from app.dispatching.reconcile import RetriesAhead
from app.dispatching.tick_handoff import RequeueTasks
from app.pacing.domain.why import held_in_words, key_missing
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.encryption import KeyRing, Unsealable, use_vault
from app.tasks.domain.attempt import Message
from app.tasks.domain.task import Hold
from app.tasks.store.feeding import (
    any_by_deadline,
    mark_fed,
    mark_some_unqueued,
    mark_unqueued,
    next_due,
    next_to_feed,
    postpone,
    promote_due,
    queues_to_feed,
)
from app.tasks.store.tables import task
from app.tasks.store.transitions import cancel_task
from app.tasks.views import problem
from tests.tasks.rows import NOW, add, again, new_task, record, row_of, take

QUEUE = "backlog.deepseek-flash.alice"


def _taken(database: Database, limit: int = 10, queue: str = QUEUE) -> list[str]:
    return [message.task_id for message in database.read(lambda conn: next_to_feed(conn, queue, limit))]


def _fed(database: Database, *ids: str) -> list[float | None]:
    return [row_of(database, name).fed_at for name in ids]


def test_queues_are_named_once_each_and_only_those_with_rows_to_feed(database: Database) -> None:
    add(database, *(new_task(queue=f"backlog.m.{name}") for name in ("carol", "alice", "bob", "alice")))
    add(
        database,
        new_task(queue="backlog.m.fed", fed_at=NOW),
        new_task(queue="backlog.m.held", hold=Hold.UNTIL),
        new_task("over", queue="backlog.m.over"),
    )
    database.write(lambda conn: cancel_task(conn, "alice", "task_over", NOW))
    assert database.read(queues_to_feed) == ["backlog.m.alice", "backlog.m.bob", "backlog.m.carol"]


def test_without_a_backlog_there_are_no_queues(database: Database) -> None:
    assert database.read(queues_to_feed) == []


def test_a_message_carries_ids_and_routing_facts(database: Database) -> None:
    (seq,) = add(database, new_task("1", step=0, estimate=42))
    (message,) = database.read(lambda conn: next_to_feed(conn, QUEUE, 5))
    assert message == Message("task_1", seq, "deepseek-flash", "alice", QUEUE, 0, 42)


def test_a_message_carries_what_was_judged_of_its_tiers(database: Database) -> None:
    add(database, new_task("1", facts="1000;a1b2c3d4:60-"))
    (message,) = database.read(lambda conn: next_to_feed(conn, QUEUE, 5))
    assert message.facts == "1000;a1b2c3d4:60-"


def test_retries_come_first_then_steps_then_the_order_of_arrival(database: Database) -> None:
    add(database, *(new_task(name, step=step) for name, step in [("a", 6), ("b", 3), ("c", 0), ("d", 3)]))
    add(database, new_task("r", step=6), new_task("s", step=3))
    for claimed in take(database, "task_r", "task_s").values():
        record(database, again(claimed, available_at=None, avoid=("main",)))
    assert _taken(database) == ["task_s", "task_r", "task_c", "task_b", "task_d", "task_a"]
    assert _taken(database, limit=1) == ["task_s"]
    assert _taken(database, limit=3) == ["task_s", "task_r", "task_c"]
    message = database.read(lambda conn: next_to_feed(conn, QUEUE, 1))[0]
    assert (message.front, message.avoid) == (True, ("main",))


def test_of_a_queue_nobody_elses_rows_are_taken(database: Database) -> None:
    add(database, new_task("1"), new_task("2", queue="backlog.deepseek-flash.bob"))
    assert _taken(database) == ["task_1"]


def test_what_is_marked_as_fed_is_not_taken_again(database: Database) -> None:
    add(database, new_task("1"), new_task("2"))
    database.write(lambda conn: mark_fed(conn, ["task_1"], NOW + 5))
    assert _taken(database) == ["task_2"]
    assert _fed(database, "task_1", "task_2") == [NOW + 5, None]


def test_only_rows_that_may_be_fed_are_marked(database: Database) -> None:
    """What was claimed, cancelled, held or fed between taking and marking stays as it is."""
    names = ["running", "cancelled", "held", "fed"]
    add(database, *(new_task(name) for name in names))
    take(database, "task_running")
    database.write(lambda conn: cancel_task(conn, "alice", "task_cancelled", NOW))
    database.write(lambda conn: conn.execute(update(task).where(task.c.id == "task_held").values(hold=1)))
    database.write(lambda conn: mark_fed(conn, ["task_fed"], NOW))
    ids = [f"task_{name}" for name in names]
    database.write(lambda conn: mark_fed(conn, [*ids, "task_unknown"], NOW + 5))
    assert _fed(database, *ids) == [None, None, None, NOW]


def test_a_row_given_back_is_taken_again(database: Database) -> None:
    add(database, new_task("1", fed_at=NOW), new_task("2", fed_at=NOW))
    database.write(lambda conn: mark_unqueued(conn, ["task_2"]))
    assert _taken(database) == ["task_2"]


def test_only_queued_rows_are_given_back(database: Database) -> None:
    add(database, new_task("1", fed_at=NOW))
    take(database, "task_1")
    database.write(lambda conn: mark_unqueued(conn, ["task_1"]))
    row = row_of(database, "task_1")
    assert (row.status, row.fed_at) == ("running", NOW)


def test_nothing_happens_for_no_ids(database: Database) -> None:
    database.write(lambda conn: (mark_fed(conn, [], NOW), mark_unqueued(conn, [])))


def test_after_redis_was_lost_everything_fed_is_given_back_in_parts(database: Database) -> None:
    add(database, *(new_task(f"{number}", fed_at=NOW + number) for number in range(7)), new_task("unfed"))
    take(database, "task_0")
    counts = [database.write(lambda conn: mark_some_unqueued(conn, 4)) for _ in range(3)]
    assert counts == [4, 2, 0]
    assert len(_taken(database)) == 7


def test_what_waits_for_its_time_is_let_go_when_it_comes(database: Database) -> None:
    add(database, *(new_task(f"{n}", hold=Hold.UNTIL, available_at=NOW + n) for n in (30, 10, 20)))
    assert database.read(next_due) == NOW + 10
    assert database.write(lambda conn: promote_due(conn, NOW + 9.9, 10)) == 0
    assert database.write(lambda conn: promote_due(conn, NOW + 20, 10)) == 2
    assert _taken(database) == ["task_10", "task_20"]
    assert database.read(next_due) == NOW + 30


def test_the_earliest_are_let_go_first(database: Database) -> None:
    add(database, *(new_task(f"{n}", hold=Hold.UNTIL, available_at=NOW + n) for n in (3, 1, 2)))
    assert database.write(lambda conn: promote_due(conn, NOW + 5, 2)) == 2
    assert sorted(_taken(database)) == ["task_1", "task_2"]


def test_when_nothing_waits_nothing_is_due(database: Database) -> None:
    add(database, new_task("1"))
    assert database.read(next_due) is None


@pytest.mark.parametrize("hold", [Hold.BATCH, Hold.PAUSED])
def test_what_waits_for_something_else_is_not_let_go_by_time(database: Database, hold: Hold) -> None:
    add(database, new_task("1", hold=hold))
    assert database.write(lambda conn: promote_due(conn, NOW + 100, 10)) == 0
    assert _taken(database) == []


def test_those_that_go_by_their_deadline_come_first_as_far_as_there_is_room_for_them(
    database: Database,
) -> None:
    add(database, new_task("plain"), new_task("late", due=NOW + 90), new_task("soon", due=NOW + 30))
    add(database, new_task("low", step=6, due=NOW + 10), new_task("low_plain", step=6))
    assert database.read(lambda conn: any_by_deadline(conn, QUEUE))
    assert _taken(database) == ["task_soon", "task_late", "task_plain", "task_low", "task_low_plain"]
    rooms = {0: 9, 3: 1, 6: 0}
    taken = database.read(lambda conn: next_to_feed(conn, QUEUE, 10, rooms))
    assert [message.task_id for message in taken] == ["task_soon", "task_plain", "task_low_plain"]
    assert taken[0].due == NOW + 30
    assert not database.read(lambda conn: any_by_deadline(conn, "backlog.other.alice"))


def test_what_is_to_be_fed_again_is_kept_while_the_database_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, new_task("1", fed_at=NOW), new_task("2", fed_at=NOW))
    rings: list[bool] = []
    publisher: Any = SimpleNamespace(wake=lambda: rings.append(True))
    requeueing = RequeueTasks(database, publisher)

    def away(_fn: object) -> None:
        raise DatabaseUnreachable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", away)
        requeueing.flush()
        for name in ("task_1", "task_2"):
            requeueing.remember((name,))
            with pytest.raises(DatabaseUnreachable):
                requeueing.flush()
    requeueing.flush()
    requeueing.flush()
    assert _fed(database, "task_1", "task_2") == [None, None]
    assert rings == [True]


@pytest.fixture
def keys() -> Iterator[Callable[[bytes], None]]:
    """Encrypt by another key from here on."""
    yield lambda secret: use_vault(KeyRing([secret]))
    use_vault(None)


def test_a_task_that_cannot_be_read_waits_says_for_which_key_and_runs_once_it_is_there(
    database: Database, keys: Callable[[bytes], None]
) -> None:
    keys(b"an old key")
    add(database, new_task("1", fed_at=NOW))
    keys(b"another key")
    with pytest.raises(Unsealable) as caught:
        take(database, "task_1")
    code = key_missing(caught.value.key_id)
    assert database.write(lambda conn: postpone(conn, "task_1", NOW + 60, code))
    assert not database.write(lambda conn: postpone(conn, "task_1", NOW + 90, code))
    database.write(lambda conn: mark_unqueued(conn, ["task_1"]))
    assert database.write(lambda conn: promote_due(conn, NOW + 59, 10)) == 0
    assert database.read(queues_to_feed) == []
    keys(b"an old key")
    row = row_of(database, "task_1")
    words = held_in_words(row.hold, row.available_at, NOW, code=row.error_code)
    assert words is not None
    assert caught.value.key_id in words
    assert problem(row) is None
    assert database.write(lambda conn: promote_due(conn, NOW + 60, 10)) == 1
    assert _taken(database) == ["task_1"]
    assert list(take(database, "task_1")) == ["task_1"]
    assert row_of(database, "task_1").error_code is None


def test_a_retry_that_a_clock_put_off_an_hour_ahead_waits_from_now(database: Database) -> None:
    """What its client wants later, and what waits for seconds yet, stays as it is."""
    hour = 3600.0
    add(database, new_task("ahead"), new_task("soon"))
    later = new_task("later", available_at=NOW + hour, hold=Hold.UNTIL)
    add(database, later)
    claimed = take(database, "task_ahead", "task_soon")
    record(database, again(claimed["task_ahead"], at=NOW + hour))
    record(database, again(claimed["task_soon"], at=NOW + 1))
    clock = SimpleNamespace(now=lambda: NOW + 5, monotonic=lambda: 100.0)
    rings: list[bool] = []
    publisher: Any = SimpleNamespace(wake=lambda: rings.append(True))
    retries = RetriesAhead(database, publisher, clock)  # type: ignore[arg-type]
    retries.tick()
    due = {name: row_of(database, f"task_{name}").available_at for name in ("ahead", "soon", "later")}
    assert due == {"ahead": NOW + 15, "soon": NOW + 11, "later": NOW + hour}
    assert rings == [True]
    retries.tick()
    assert rings == [True]


def test_retries_ahead_are_found_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "PAGE", 2)
    names = [f"task_{number}" for number in range(5)]
    add(database, *(new_task(str(number)) for number in range(5)))
    for claimed in take(database, *names).values():
        record(database, again(claimed, at=NOW + 3600))
    clock = SimpleNamespace(now=lambda: NOW, monotonic=lambda: 100.0)
    retries = RetriesAhead(database, SimpleNamespace(wake=lambda: None), clock)  # type: ignore[arg-type]
    for _ in range(4):
        retries.tick()
    assert {row_of(database, name).available_at for name in names} == {NOW + 10}
