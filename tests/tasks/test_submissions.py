"""Rows in: tasks, keys, batches."""

from threading import Barrier, Thread

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.platform.database import Database
from app.platform.dialects import insert_rows
from app.tasks.domain.task import Hold
from app.tasks.store.submissions import delete_expired_keys, insert_tasks, remember_key
from app.tasks.store.tables import idempotency, learned, task
from tests.tasks.rows import DAY, NOW, add, all_of, new_task, row_of


def test_a_task_is_stored_with_everything_that_was_said_of_it(database: Database) -> None:
    full = new_task(
        "1",
        hold=Hold.UNTIL,
        fed_at=NOW,
        available_at=NOW + 5,
        batch_id="batch_1",
        batch_index=4,
        custom_id="line 你好",
        retry="patient",
        callback_url="https://alice.example/hook",
        metadata='{"a":"\\u0000"}',
        request='{"messages":[{"role":"user","content":"tab\\t, back\\\\slash, 你好, \\u0000"}]}',
    )
    (seq,) = add(database, full)
    row = row_of(database, "task_1")
    assert row.status == "queued"
    assert row.seq == seq
    for name in full.__slots__:
        assert getattr(row, name) == getattr(full, name), name
    assert (row.attempts, row.counted, row.lost, row.front, row.cancel_requested) == (0, 0, 0, False, False)


def test_what_is_not_said_of_a_task_is_stored_as_its_default(database: Database) -> None:
    """Columns that hold nothing but a default are not sent: the database's own must be the same."""
    bare = new_task("1")
    add(database, bare)
    row = row_of(database, "task_1")
    for name in bare.__slots__:
        assert getattr(row, name) == getattr(bare, name), name


@pytest.mark.parametrize("number", [1, 7, 8, 71, 577, 1100])
def test_every_number_of_rows_is_stored_in_order(database: Database, number: int) -> None:
    rows = [new_task(custom_id=f"line {n}" if n % 3 else None) for n in range(number)]
    add(database, *rows)
    assert [(row.id, row.custom_id) for row in all_of(database, task)] == [(r.id, r.custom_id) for r in rows]


def test_sequence_numbers_are_given_in_order(database: Database) -> None:
    first = add(database, *(new_task() for _ in range(3)))
    second = add(database, *(new_task() for _ in range(2)))
    numbers = [*first, *second]
    assert numbers == sorted(set(numbers))
    assert [row.seq for row in all_of(database, task)] == numbers


def test_an_id_that_exists_is_refused_and_nothing_of_its_group_is_stored(database: Database) -> None:
    add(database, new_task("1"))
    with pytest.raises(IntegrityError):
        add(database, new_task("2"), new_task("1"))
    assert [row.id for row in all_of(database, task)] == ["task_1"]


def test_nothing_is_inserted_for_no_rows(database: Database) -> None:
    assert add(database) == []


def test_rows_that_are_all_a_transaction_does_are_committed(database: Database) -> None:
    """Neither COPY nor the driver's own loop is known to SQLAlchemy, which has to begin and to commit it."""
    row = ("f" * 64, "{}", 1.0)
    database.write(lambda conn: insert_rows(conn, learned, ("quota", "figures", "updated_at"), [row]))
    assert database.read(lambda conn: conn.execute(select(learned.c.quota)).scalars().all()) == ["f" * 64]


def _remember(
    database: Database, object_id: str, fingerprint: str = "f", now: float = NOW
) -> tuple[str, str]:
    return database.write(
        lambda conn: remember_key(conn, "alice", "key", fingerprint, object_id, now, now + DAY)
    )


def test_the_first_object_under_a_key_stands(database: Database) -> None:
    assert _remember(database, "task_1", "one") == ("one", "task_1")
    assert _remember(database, "task_2", "two") == ("one", "task_1")


def test_a_key_belongs_to_its_client(database: Database) -> None:
    _remember(database, "task_1")
    stands = database.write(lambda conn: remember_key(conn, "stranger", "key", "f", "task_2", NOW, NOW + DAY))
    assert stands == ("f", "task_2")


def test_an_expired_key_is_free_again(database: Database) -> None:
    _remember(database, "task_1")
    assert _remember(database, "task_2", now=NOW + DAY - 1) == ("f", "task_1")
    assert _remember(database, "task_2", now=NOW + DAY) == ("f", "task_2")


def test_of_two_submissions_at_once_under_one_key_one_is_told_of_the_other(database: Database) -> None:
    """The second transaction begins while the first is open, and has to wait for it."""
    start = Barrier(8)
    stands: list[tuple[str, str]] = []

    def submit(number: int) -> None:
        start.wait()
        stands.append(_remember(database, f"task_{number}"))

    threads = [Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stands) == 8
    assert len(set(stands)) == 1


def test_old_keys_are_forgotten_some_at_a_time(database: Database) -> None:
    for number in range(5):
        database.write(
            lambda conn, number=number: remember_key(conn, "alice", f"k{number}", "f", "t", NOW, NOW + number)
        )
    assert database.write(lambda conn: delete_expired_keys(conn, NOW + 3, 3)) == 3
    assert database.write(lambda conn: delete_expired_keys(conn, NOW + 3, 3)) == 1
    left = database.read(lambda conn: conn.execute(select(idempotency.c.key)).scalars().all())
    assert left == ["k4"]


def test_a_transaction_that_fails_leaves_neither_task_nor_key(database: Database) -> None:
    def submit(conn) -> None:
        remember_key(conn, "alice", "key", "f", "task_1", NOW, NOW + DAY)
        insert_tasks(conn, [new_task("1"), new_task("1")])

    with pytest.raises(IntegrityError):
        database.write(submit)
    assert all_of(database, task) == []
    assert _remember(database, "task_2") == ("f", "task_2")
