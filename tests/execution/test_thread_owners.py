"""The loops of a worker process: their state changes in their own thread alone, whoever starts, wakes and ends them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from app.execution.in_flight import CallsInFlight, ReleasePermits, WorkerReadiness
from app.execution.report_worker import BeatWorker, ReportSlots, WorkerInstance
from app.pacing.ports import WorkerReport
from app.platform.database import Database
from app.platform.ports import SystemClock
from app.tasks.domain.attempt import Outcome, Settlement
from tests.stack import wait_until

# The loop's thread of each, and what other threads may set.
OWNED: dict[type, tuple[str, set[str]]] = {
    BeatWorker: ("beat-worker", set()),
    ReportSlots: ("report-slots", {"_keys"}),
}


class Redis:
    """Takes what a worker reports and releases."""

    def __init__(self) -> None:
        self.reports: list[WorkerReport] = []
        self.settled: list[Settlement] = []

    def report(self, report: WorkerReport) -> None:
        self.reports.append(report)

    def leave(self, worker: str) -> None:
        self.reports.clear()

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.settled += settlements


class AnyDatabase:
    """Takes every write."""

    def __init__(self) -> None:
        self.asked = 0

    def write(self, _fn: Callable[[Any], object]) -> None:
        self.asked += 1

    ping = write


@pytest.fixture
def setters(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[type, str], set[str]]:
    """The threads that set each field, its making left out."""
    found: dict[tuple[type, str], set[str]] = defaultdict(set)

    def watch(owned: type) -> None:
        making = owned.__init__  # type: ignore[misc]

        def make(self: Any, *args: Any, **kwargs: Any) -> None:
            making(self, *args, **kwargs)
            object.__setattr__(self, "made", True)

        def keep(self: Any, name: str, value: object) -> None:
            if getattr(self, "made", False):
                found[owned, name].add(threading.current_thread().name)
            object.__setattr__(self, name, value)

        monkeypatch.setattr(owned, "__init__", make)
        monkeypatch.setattr(owned, "__setattr__", keep, raising=False)

    for owned in OWNED:
        watch(owned)
    return found


def test_a_loops_state_changes_in_its_own_thread(setters: dict[tuple[type, str], set[str]]) -> None:
    redis, database, clock = Redis(), AnyDatabase(), SystemClock()
    in_flight, readiness = CallsInFlight(), WorkerReadiness()
    me = WorkerInstance("worker_1", "host", 1)
    beats = BeatWorker(me, cast("Database", database), in_flight, readiness, clock, beat_seconds=0.0)
    slots = ReportSlots(me.id, ("k1",), 50, redis, in_flight, readiness, clock)
    beats.start()
    slots.start()
    others = [threading.Thread(target=_call, args=(in_flight, slots, number)) for number in range(4)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    slots.consume(("k1", "k2"))
    wait_until(lambda: any(len(one.keys) == 2 for one in redis.reports) and database.asked > 1, within=10)
    slots.close(5.0)
    beats.close(5.0)
    assert {name for _, name in setters} >= {"_reported_at", "_beat_due_at"}
    for (owned, name), threads in setters.items():
        own, shared = OWNED[owned]
        assert name in shared or threads == {own}, f"{owned.__name__}.{name}"


def _call(in_flight: CallsInFlight, slots: ReportSlots, number: int) -> None:
    with in_flight.message(), in_flight.call(f"task_{number}", 1):
        slots.at_once()


def test_every_permit_is_released_once_whichever_thread_sends_it() -> None:
    redis = Redis()
    releases = ReleasePermits(cast("Any", redis))
    releases.start()
    ids = [[f"task_{thread}_{number}" for number in range(200)] for thread in range(4)]
    threads = [
        threading.Thread(
            target=lambda mine=mine: [releases.add(Settlement(one, 1, Outcome.SUCCEEDED)) for one in mine]
        )
        for mine in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert releases.close(10.0) == 0
    assert sorted(one.task_id for one in redis.settled) == sorted(name for mine in ids for name in mine)
