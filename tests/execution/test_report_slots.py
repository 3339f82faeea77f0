"""What a worker process tells the dispatcher."""

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from app.execution.in_flight import CallsInFlight, WorkerReadiness
from app.execution.report_worker import LEAST, MOST, ReportSlots, prefetch_allowance
from app.pacing.ports import WorkerReport
from app.platform.domain.errors import RedisUnreachable
from tests.execution.test_run_task import FakeClock
from tests.stack import wait_until


class FakeReports:
    """The last word of each worker."""

    def __init__(self) -> None:
        self.said: list[WorkerReport] = []
        self.left: list[str] = []
        self.away = False

    def report(self, report: WorkerReport) -> None:
        if self.away:
            raise RedisUnreachable("away")
        self.said.append(report)

    def leave(self, worker: str) -> None:
        if self.away:
            raise RedisUnreachable("away")
        self.left.append(worker)


class World:
    def __init__(self, slots: int = 1000) -> None:
        self.reports, self.held, self.state = FakeReports(), CallsInFlight(), WorkerReadiness()
        self.state.registered = True
        self.clock = FakeClock()
        self.reporting = ReportSlots(
            "worker_1", ("k1", "k2"), slots, self.reports, self.held, self.state, self.clock
        )

    def said(self) -> WorkerReport:
        self.reporting.tick()
        return self.reports.said[-1]


def test_an_idle_worker_asks_for_what_it_can_start_in_time() -> None:
    assert World().said() == WorkerReport("worker_1", ("k1", "k2"), LEAST, 0, pool=1000)


def test_a_small_pool_is_told_as_it_is() -> None:
    assert World(slots=20).said().slots == 20


def test_what_is_held_makes_room_for_more_up_to_the_pools_size() -> None:
    world = World(slots=200)
    with ExitStack() as held:
        for number in range(100):
            held.enter_context(world.held.call(f"task_{number}", number))
        assert (world.said().slots, world.said().held) == (100 + LEAST, 100)
        for number in range(100, 190):
            held.enter_context(world.held.call(f"task_{number}", number))
        assert (world.said().slots, world.said().held) == (200, 190)


def test_without_a_database_or_when_stopping_nothing_is_taken() -> None:
    for change in ("unregistered", "database", "draining"):
        world = World()
        if change == "unregistered":
            world.state.registered = False
        elif change == "database":
            world.state.database_answers = False
        else:
            world.state.draining.set()
        assert world.said().slots == 0


def test_an_unreachable_redis_is_no_reason_to_stop_reporting() -> None:
    world = World()
    world.reports.away = True
    world.reporting.tick()
    world.reports.away = False
    assert world.said().slots == LEAST


def test_reports_follow_the_clock_and_come_at_once_when_asked_or_when_much_has_changed() -> None:
    world = World()
    world.reporting.start()
    wait_until(lambda: len(world.reports.said) == 1)
    world.reporting.at_once()
    wait_until(lambda: len(world.reports.said) == 2)
    world.clock.at += 1.0
    wait_until(lambda: len(world.reports.said) == 3)
    with ExitStack() as held:
        for number in range(LEAST):
            held.enter_context(world.held.call(f"task_{number}", number))
        wait_until(lambda: world.reports.said[-1].held > 0)
    world.reporting.close(10)
    assert world.reports.left == ["worker_1"]


def test_leaving_while_redis_is_away_is_harmless() -> None:
    world = World()
    world.reporting.start()
    world.reports.away = True
    world.reporting.close(10)
    assert world.reports.left == []


def test_a_worker_that_starts_fast_asks_for_more() -> None:
    world = World()
    with ExitStack() as held:
        for number in range(200):
            held.enter_context(world.held.call(f"task_{number}", number))
        world.clock.at += 1.0
        assert world.said().slots == 200 + 150
    world.clock.at += 1.0
    assert world.said().slots == LEAST


@given(st.integers(0, 100_000), st.floats(0.0, 100.0))
def test_the_room_is_bounded_and_what_fills_it_starts_in_time(started: int, seconds: float) -> None:
    room = prefetch_allowance(started, seconds)
    assert LEAST <= room <= MOST
    if seconds > 0 and LEAST < room < MOST:
        assert room / (started / seconds) < 1.0
