"""The walk over what may be too old to be kept: as far as there is something old, and no further."""

from sqlalchemy import Connection, update

from app.execution.store.endings import end
from app.platform.database import Database
from app.tasks.domain.task import BatchStatus
from app.tasks.store import retention
from app.tasks.store.submissions import NewBatch, insert_batch
from app.tasks.store.tables import batch, task
from tests.tasks.rows import NOW, add, new_task, success, take

MONTH = 30 * 86_400.0


def test_the_walk_goes_on_while_a_page_holds_something_old_and_ends_at_the_first_that_does_not(
    database: Database,
) -> None:
    old = [f"old{number}" for number in range(3)]
    add(database, *(new_task(name, created_at=NOW - MONTH) for name in old))
    claimed = take(database, *(f"task_{name}" for name in old), at=NOW - MONTH)
    endings = [success(one, at=NOW - MONTH) for one in claimed.values()]
    database.write(lambda conn: end(conn, endings))
    young = add(database, *(new_task(f"young{number}") for number in range(9)))

    def walk(after: int) -> retention.WalkProgress:
        return database.write(lambda conn: retention.delete_old(conn, after, NOW - 1, {}, 2))

    first = walk(0)
    assert (first.last is not None, first.deleted) == (True, 2)
    second = walk(first.last or 0)  # one old, one young
    assert (second.last, second.deleted) == (young[0], 1)
    third = walk(second.last or 0)
    assert (third.last, third.deleted) == (None, 0)  # eight young ones are left unread
    left = database.read(lambda conn: conn.execute(task.select()).all())
    assert {row.seq for row in left} == set(young)


def test_the_walk_over_batches_ends_where_they_are_young_and_spares_what_is_open_or_has_tasks(
    database: Database,
) -> None:
    def make(conn: Connection) -> None:
        for number in range(9):
            old = number < 4
            insert_batch(conn, NewBatch(f"batch_{number}", "alice", NOW - MONTH if old else NOW, NOW + MONTH))
        ended = batch.c.id != "batch_1"
        conn.execute(update(batch).where(ended).values(status=BatchStatus.COMPLETED))

    database.write(make)
    add(database, new_task("kept", batch_id="batch_2", batch_index=0))

    def walk(after: int) -> retention.WalkProgress:
        return database.write(lambda conn: retention.delete_empty_batches(conn, after, NOW - 1, 2))

    first = walk(0)
    assert (first.last is not None, first.deleted) == (True, 1)
    second = walk(first.last or 0)
    assert (second.last is not None, second.deleted) == (True, 1)
    assert walk(second.last or 0) == retention.WalkProgress(None, 0)  # two young ones read, three not
    left = database.read(lambda conn: conn.execute(batch.select().order_by(batch.c.seq)).all())
    assert [row.id for row in left] == [f"batch_{number}" for number in (1, 2, 4, 5, 6, 7, 8)]
