"""Beats, drains and revokes, over a real database where rows are the point."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from app.access.store import clients
from app.composition.worker import keys_of, policies
from app.execution.in_flight import CallsInFlight, DrainWorker, WorkerReadiness
from app.execution.report_worker import BEAT_SECONDS, BeatWorker, WorkerInstance
from app.execution.revoke_task import RevokeTasks
from app.execution.store import workers
from app.execution.store.claims import claim
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.migrate import upgrade
from app.settings import ModelSettings, RetrySettings, Settings
from app.tasks.domain.attempt import Claim
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Status
from app.tasks.store import tasks
from app.tasks.store.submissions import insert_tasks
from tests.attempts import NOW, a_claimed, a_permit
from tests.execution.test_run_task import FakeClock
from tests.stack import wait_until

T = TypeVar("T")
ME = WorkerInstance("worker_1", "host", 1)


class CutDatabase:
    """A database that can be taken away."""

    def __init__(self, inner: Database) -> None:
        self.inner = inner
        self.away = False
        self.asked = 0

    def write(self, fn: Callable[[Connection], T]) -> T:
        self._reach()
        return self.inner.write(fn)

    def read(self, fn: Callable[[Connection], T]) -> T:
        self._reach()
        return self.inner.read(fn)

    def ping(self) -> None:
        self._reach()
        self.inner.ping()

    def _reach(self) -> None:
        self.asked += 1
        if self.away:
            raise DatabaseUnreachable("away")


@pytest.fixture
def database(database_url: str) -> Iterator[CutDatabase]:
    upgrade(database_url)
    made = Database(database_url)
    made.write(lambda conn: clients.add_client(conn, "alice", "whsec_" + "A" * 32, now=NOW))
    yield CutDatabase(made)
    made.close()


def add_task(database: CutDatabase, task_id: str = "task_1") -> None:
    row = NewTask(
        id=task_id,
        client_id="alice",
        model="deepseek-flash",
        queue="backlog.deepseek-flash.alice",
        step=3,
        estimate=10,
        created_at=NOW,
        available_at=NOW,
        expires_at=NOW + 86400,
        fed_at=NOW,
        request="{}",
    )
    database.inner.write(lambda conn: insert_tasks(conn, [row]))


def claim_task(database: CutDatabase, at: float) -> None:
    wish = Claim(a_permit(), ME.id, at)
    assert database.inner.write(lambda conn: claim(conn, [wish]))


def status_of(database: CutDatabase, task_id: str = "task_1") -> Status:
    row = database.inner.read(lambda conn: tasks.get_task(conn, None, task_id))
    assert row is not None
    return row.status


class Beating:
    def __init__(self, database: CutDatabase) -> None:
        self.held, self.state, self.clock = CallsInFlight(), WorkerReadiness(), FakeClock()
        self.database = database
        self.beating = BeatWorker(ME, database, self.held, self.state, self.clock)  # type: ignore[arg-type]

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.at += seconds
        self.beating.tick()

    def count(self) -> int | None:
        return self.database.inner.read(workers.beats).get(ME.id)


def test_a_process_takes_no_task_before_it_is_registered(database: CutDatabase) -> None:
    world = Beating(database)
    database.away = True
    world.tick()
    assert not world.state.takes_tasks
    database.away = False
    world.tick()
    assert world.state.takes_tasks
    assert world.count() == 0


def test_a_beat_every_ten_seconds_and_a_look_in_between(database: CutDatabase) -> None:
    world = Beating(database)
    world.tick()
    world.tick(1.0)
    assert world.count() == 1
    for _ in range(9):
        world.tick(1.0)
    assert world.count() == 1
    world.tick(1.0)
    assert world.count() == 2


def test_a_database_that_is_away_is_noticed_within_a_look_and_so_is_its_return(database: CutDatabase) -> None:
    world = Beating(database)
    world.tick()
    world.tick()
    database.away = True
    world.tick(1.0)
    assert not world.state.takes_tasks
    database.away = False
    world.tick(1.0)
    assert world.state.takes_tasks


def test_a_row_that_memory_knows_nothing_of_goes_back(database: CutDatabase) -> None:
    world = Beating(database)
    world.tick()
    add_task(database)
    claim_task(database, world.clock.now())
    world.tick(1.0)
    assert status_of(database) is Status.RUNNING  # its claim may yet reach us
    world.tick(BEAT_SECONDS + 1)
    assert status_of(database) is Status.QUEUED


def test_a_row_that_is_held_stays(database: CutDatabase) -> None:
    world = Beating(database)
    world.tick()
    add_task(database)
    claim_task(database, world.clock.now())
    with world.held.call("task_1", 7):
        world.tick(BEAT_SECONDS + 1)
        world.tick(BEAT_SECONDS + 1)
        assert status_of(database) is Status.RUNNING


def test_a_process_says_goodbye(database: CutDatabase) -> None:
    world = Beating(database)
    world.beating.start()
    wait_until(lambda: world.state.registered)
    world.beating.close(60)
    assert world.count() is None


# Drains


class Draining:
    """One call in hand, which ends when it is told or cut off."""

    def __init__(self, seconds: float, grace: float = 10.0) -> None:
        self.held, self.state = CallsInFlight(), WorkerReadiness()
        self.cut, self.end = threading.Event(), threading.Event()
        self.drain = DrainWorker(self.held, self.state, self.cut.set, seconds=seconds, grace=grace)
        self.drain.start()
        self.call = threading.Thread(target=self._hold)
        self.call.start()
        wait_until(lambda: not self.held.wait_until_idle(0))

    def _hold(self) -> None:
        with self.held.message():
            assert self.end.wait(60)


def test_a_call_that_ends_in_its_time_is_not_cut_off() -> None:
    world = Draining(seconds=60)
    world.drain.begin()
    world.end.set()
    world.call.join(60)
    assert world.held.wait_until_idle(60)
    assert not world.cut.is_set()
    assert not world.state.giving_up.is_set()


def test_a_call_beyond_its_time_is_cut_off_and_its_ending_gets_time_to_be_recorded() -> None:
    world = Draining(seconds=0.0)
    world.drain.begin()
    assert world.cut.wait(60)
    assert not world.state.giving_up.is_set()
    world.end.set()
    world.call.join(60)
    assert world.state.giving_up.wait(60)


def test_what_cannot_be_recorded_at_all_is_given_up() -> None:
    world = Draining(seconds=0.0, grace=0.0)
    world.drain.begin()
    assert world.state.giving_up.wait(60)
    world.end.set()
    world.call.join(60)


# Revokes


class FakePublisher:
    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.announced: list[str] = []

    def publish(self, messages: object, *, feeding: bool = False) -> dict[str, str]:
        raise AssertionError("a revoke publishes nothing")

    def forget(self, task_ids: list[str]) -> None:
        self.forgotten += task_ids

    def announce(self, task_ids: list[str]) -> None:
        self.announced += task_ids

    def wake(self) -> None: ...


def revoking(database: CutDatabase) -> tuple[RevokeTasks, FakePublisher, list[str]]:
    publisher, told = FakePublisher(), []
    made = RevokeTasks(database, publisher, FakeClock(), told.append)  # type: ignore[arg-type]
    return made, publisher, told


def test_a_revoked_row_is_cancelled_forgotten_and_announced(database: CutDatabase) -> None:
    add_task(database)
    revoke, publisher, told = revoking(database)
    revoke.start()
    revoke.ask(["task_1"])
    wait_until(lambda: told == ["task_1"])
    assert status_of(database) is Status.CANCELLED
    assert (publisher.forgotten, publisher.announced) == (["task_1"], ["task_1"])


def test_a_revoke_is_not_forgotten_while_the_database_is_away(database: CutDatabase) -> None:
    add_task(database)
    revoke, _, told = revoking(database)
    database.away = True
    revoke.start()
    revoke.ask(["task_1"])
    wait_until(lambda: database.asked)
    database.away = False
    wait_until(lambda: told == ["task_1"])


def test_a_revoke_of_something_unknown_is_harmless(database: CutDatabase) -> None:
    revoke, publisher, told = revoking(database)
    assert revoke.revoke("task_nobody") is None
    assert (publisher.forgotten, told) == ([], [])


# What is read from the settings

ROUTES = ModelSettings(name="m", tiers=(("k1", "k2:other"), ("k3:third",)), retry="patient")


def test_policies_come_from_the_settings() -> None:
    settings = Settings(models=(ROUTES,), retry={"patient": RetrySettings(attempts=9, base=2.0, cap=8.0)})
    read = policies(settings)
    assert read.keys_of(a_claimed(model="m")) == {"k1", "k2", "k3"}
    policy = read.retry_of(a_claimed(model="m"))
    assert (policy.attempts, policy.base, policy.cap, policy.jitter) == (9, 2.0, 8.0, "full")


def test_keys_are_those_whose_queues_are_consumed(tmp_path: object) -> None:
    from app.settings import KeySettings

    keys = tuple(KeySettings(name=name, upstream="up", secret="env:X") for name in ("a", "b/c d"))
    assert keys_of(Settings(keys=keys), ["key.b/c%20d", "callbacks"]) == ("b/c d",)
