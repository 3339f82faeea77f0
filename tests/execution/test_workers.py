"""Worker processes, their beats, and what they hold in memory."""

from app.dispatching.store import lose
from app.execution.store.workers import CLAIM_SECONDS, beat, beats, ended, register
from app.platform.database import Database
from app.tasks.store.transitions import cancel_task
from tests.tasks.rows import NOW, add, attempts, new_task, record, row_of, success, take


def _register(database: Database, *names: str) -> None:
    for name in names:
        database.write(lambda conn, name=name: register(conn, name, "host", 1, NOW))


def _beat(database: Database, *held: tuple[str, int], name: str = "w1", at: float = NOW + 60) -> list[str]:
    return database.write(lambda conn: beat(conn, name, held, at))


def test_beats_count_up(database: Database) -> None:
    _register(database, "w1", "w2")
    assert database.read(beats) == {"w1": 0, "w2": 0}
    _beat(database, name="w2")
    _beat(database, name="w2")
    assert database.read(beats) == {"w1": 0, "w2": 2}


def test_registering_again_changes_nothing(database: Database) -> None:
    _register(database, "w1")
    _beat(database)
    _register(database, "w1")
    assert database.read(beats) == {"w1": 1}


def test_a_worker_that_has_ended_beats_no_more(database: Database) -> None:
    _register(database, "w1", "w2")
    database.write(lambda conn: ended(conn, "w1", NOW))
    assert database.read(beats) == {"w2": 0}


def test_a_worker_given_up_too_early_is_back_with_its_next_beat(database: Database) -> None:
    _register(database, "w1")
    database.write(lambda conn: ended(conn, "w1", NOW))
    _beat(database)
    assert database.read(beats) == {"w1": 1}


def test_an_ended_worker_is_watched_while_rows_run_under_its_name(database: Database) -> None:
    """As after a drain that was cut short: nobody else would take them from it."""
    _register(database, "w1")
    add(database, new_task("1"))
    take(database, "task_1")
    database.write(lambda conn: ended(conn, "w1", NOW))
    assert database.read(beats) == {"w1": 0}
    database.write(lambda conn: lose(conn, "w1", NOW + 40, 10))
    assert database.read(beats) == {}


def test_what_a_worker_holds_stays_its_own(database: Database) -> None:
    _register(database, "w1")
    add(database, new_task("1"))
    take(database, "task_1", release=5)
    assert _beat(database, ("task_1", 5)) == []
    assert row_of(database, "task_1").status == "running"


def test_what_is_no_longer_its_own_is_told(database: Database) -> None:
    """One was taken from it, one runs elsewhere, one runs under its later release, one has ended."""
    _register(database, "w1")
    add(database, *(new_task(name) for name in ("taken", "other", "again", "over", "mine")))
    claims = take(database, "task_taken", "task_other", "task_over")
    record(database, success(claims["task_over"]))
    database.write(lambda conn: lose(conn, "w1", NOW, 10))
    take(database, "task_other", worker="w2", release=2)
    take(database, "task_again", release=2)
    take(database, "task_mine")
    names = ["task_taken", "task_other", "task_again", "task_over", "task_mine"]
    gone = _beat(database, *((name, 1) for name in names), at=NOW + 5)
    assert gone == names[:-1]


def test_a_row_whose_claim_never_reached_the_worker_goes_back_unsent(database: Database) -> None:
    _register(database, "w1")
    add(database, new_task("1"))
    take(database, "task_1")
    _beat(database, at=NOW + CLAIM_SECONDS)
    assert row_of(database, "task_1").status == "running"
    _beat(database, at=NOW + CLAIM_SECONDS + 1)
    row = row_of(database, "task_1")
    assert (row.status, row.front, row.hold, row.attempts) == ("queued", True, 0, 0)
    assert (row.worker, row.release, row.started_at, row.lost) == (None, None, None, 0)
    assert attempts(database, "task_1") == []


def test_such_a_row_is_cancelled_if_that_was_asked_for(database: Database) -> None:
    _register(database, "w1")
    add(database, new_task("1"))
    take(database, "task_1")
    database.write(lambda conn: cancel_task(conn, "alice", "task_1", NOW))
    _beat(database)
    assert (row_of(database, "task_1").status, row_of(database, "task_1").attempts) == ("cancelled", 0)


def test_other_workers_rows_are_not_touched(database: Database) -> None:
    _register(database, "w1", "w2")
    add(database, new_task("1"))
    take(database, "task_1", worker="w2")
    _beat(database)
    assert row_of(database, "task_1").worker == "w2"
