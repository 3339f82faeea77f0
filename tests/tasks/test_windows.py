"""Rows that wait for off-peak hours."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC

from app.billing.domain.calendar import Calendar, Windows
from app.dispatching.waiting_tasks import ScheduleOffPeak
from app.platform.database import Database
from app.tasks.domain.task import Hold
from app.tasks.store.batches import get_batch
from app.tasks.store.feeding import promote_due
from app.tasks.store.off_peak import hold_for_window, off_peak_queues, open_windows, start_early
from tests.tasks.rows import DAY, NOW, add, add_batch, new_task, row_of

QUEUE = "backlog.deepseek-flash.alice"
LATER = NOW + 9_000


def off_peak(name: str, **changes: object) -> object:
    return new_task(name, **{"hold": Hold.OFF_PEAK, "off_peak": True, "available_at": LATER, **changes})


@dataclass
class Told:
    """A publisher that notes what it is told."""

    forgotten: list[str] = field(default_factory=list)
    rings: int = 0

    def forget(self, ids: list[str]) -> None:
        self.forgotten += ids

    def wake(self) -> None:
        self.rings += 1


@dataclass
class Clock:
    at: float = NOW

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def test_what_waits_is_counted_by_queue_beside_what_is_in_line(database: Database) -> None:
    add(database, off_peak("b", expires_at=NOW + 90), off_peak("a", expires_at=NOW + 30), new_task("c"))
    add(database, new_task("low", step=6), off_peak("x", queue="backlog.other.bob", model="other"))
    mine, other = database.read(off_peak_queues)
    assert (mine.queue, mine.model) == (QUEUE, "deepseek-flash")
    assert (mine.deadlines, mine.count, mine.backlog) == ([NOW + 30, NOW + 90], 2, 2)
    assert (other.queue, other.count, other.backlog) == ("backlog.other.bob", 1, 0)


def test_when_their_hours_begin_rows_go_on_to_the_feeder(database: Database) -> None:
    add(
        database,
        off_peak("a"),
        off_peak("b", cache_key="k", available_at=NOW),
        off_peak("c", available_at=NOW),
    )
    assert database.write(lambda conn: open_windows(conn, NOW, 10)) == 2
    assert [row_of(database, f"task_{n}").hold for n in "abc"] == [Hold.OFF_PEAK, Hold.JOINING, Hold.NONE]
    assert database.write(lambda conn: promote_due(conn, LATER, 10)) == 1


def test_a_deadline_lets_the_nearest_go_whatever_the_hour_and_for_good(database: Database) -> None:
    add(database, off_peak("a", expires_at=NOW + 50), off_peak("b", expires_at=NOW + 40), off_peak("c"))
    assert database.write(lambda conn: start_early(conn, QUEUE, NOW + 50, NOW, 10)) == 2
    rows = [row_of(database, f"task_{n}") for n in "abc"]
    assert [row.hold for row in rows] == [Hold.NONE, Hold.NONE, Hold.OFF_PEAK]
    assert database.write(lambda conn: hold_for_window(conn, "deepseek-flash", LATER, 10)) == []


def test_busy_hours_hold_back_what_has_not_begun(database: Database) -> None:
    add(database, *(new_task(n, off_peak=True, fed_at=NOW) for n in "ab"), new_task("plain", fed_at=NOW))
    add(database, new_task("leads", off_peak=True, leads=True), off_peak("held"))
    assert database.write(lambda conn: hold_for_window(conn, "deepseek-flash", LATER, 10)) == [
        "task_a",
        "task_b",
    ]
    row = row_of(database, "task_a")
    assert (row.hold, row.available_at, row.fed_at) == (Hold.OFF_PEAK, LATER, None)
    assert row_of(database, "task_plain").hold == Hold.NONE


def test_a_batch_lets_its_rows_wait_for_their_hours(database: Database) -> None:
    ids = add_batch(database, 3, task={"off_peak": True, "available_at": LATER})
    assert {row_of(database, name).hold for name in ids} == {Hold.OFF_PEAK}
    assert database.read(lambda conn: get_batch(conn, None, "batch_1")) is not None


def test_the_chore_holds_in_busy_hours_and_starts_what_would_come_too_late(database: Database) -> None:
    """An hour busy around NOW; ten tasks of which the first five are due within minutes, at one a second."""
    minute = int(NOW % DAY // 60)
    hours = Windows((Calendar(UTC, ((minute - 30, minute + 30),), frozenset(range(7))),))
    publisher, clock = Told(), Clock()
    chore = ScheduleOffPeak(database, publisher, clock, {"deepseek-flash": hours}, lambda _queue, _model: 1.0)
    add(database, new_task("running", off_peak=True, fed_at=NOW))
    add(database, *(off_peak(str(n), expires_at=NOW + (100 if n < 5 else DAY)) for n in range(10)))
    assert chore.tick() == 1
    assert publisher.forgotten == ["task_running"]
    assert chore.tick() == 0  # nothing else is due
    clock.at += 40
    assert chore.tick() == 5
    assert [row_of(database, f"task_{n}").hold for n in (0, 4, 5)] == [Hold.NONE, Hold.NONE, Hold.OFF_PEAK]
    assert publisher.rings == 1
