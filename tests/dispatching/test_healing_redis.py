"""Feeder and reconciler between a real database and a real Redis: whatever is lost on the way is put right."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, insert, select, update

from app.composition.schema import metadata
from app.dispatching.feed_backlog import Feeder
from app.dispatching.leadership import begin_generation
from app.dispatching.reconcile import EndedPermits, Expiry, LostWorkers, QueuedRows
from app.execution.store import claims, workers
from app.pacing.store.pacing_store import GenerationLost
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.names import backlog_queue
from app.platform.engines import parse_url
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.attempt import Claim, Message, Outcome, Permit, Settlement
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import Hold, new_id
from app.tasks.store.submissions import insert_tasks
from app.tasks.store.tables import client, task
from tests.pacing.pacing_world import GateWorld, one_key

START = 1_800_000_000.0


class HealingWorld(GateWorld):
    """The pacing store, and the database behind it."""

    def open(self, database: Database, window: int = 50_000) -> HealingWorld:
        self.database = database
        self.clock.at = START
        self.feeder = Feeder(database, self.publisher, self.gate, self.clock, size=window)
        self.fill(level=40, tokens=50_000, sent=40)
        return self

    def insert(self, count: int, name: str = "alice", **facts: object) -> list[str]:
        rows = [
            NewTask(
                id=new_id("task", self.clock.at),
                client_id=name,
                model="m",
                queue=backlog_queue("m", name),
                step=3,
                estimate=10,
                created_at=self.clock.at,
                available_at=self.clock.at,
                expires_at=self.clock.at + 3600,
                request="{}",
                **facts,  # type: ignore[arg-type]
            )
            for _ in range(count)
        ]
        self.database.write(lambda conn: insert_tasks(conn, rows))
        return [row.id for row in rows]

    def row(self, task_id: str) -> dict[str, object]:
        statement = select(task).where(task.c.id == task_id)
        return dict(self.database.read(lambda conn: conn.execute(statement).mappings().one()))

    def run(self, task_id: str, worker: str = "w1") -> Permit:
        """Redeem and claim, as a worker does."""
        permit = self.permits.redeem(task_id, worker)
        assert isinstance(permit, Permit), permit
        claimed = self.database.write(lambda conn: claims.claim(conn, [Claim(permit, worker, self.clock.at)]))
        assert task_id in claimed
        return permit

    def placed(self) -> int:
        return int(self.scripts.client.hlen("penstock:place"))


@pytest.fixture
def world(redis_url: str, database_url: str) -> Iterator[HealingWorld]:
    engine = create_engine(parse_url(database_url))
    metadata.create_all(engine)
    with engine.begin() as conn:
        for name in ("alice", "bob"):
            conn.execute(insert(client).values(id=name, callback_secret="whsec_x", created_at=0))
    engine.dispose()
    database = Database(database_url)
    gate = HealingWorld(
        redis_url, one_key(ConfiguredQuota("account:a1:m", rpm=3000, tpm=6_000_000, concurrency=30))
    )
    gate.lead()
    yield gate.open(database)
    database.close()


def test_rows_that_wait_in_the_database_are_fed_in_order_and_once(world: HealingWorld) -> None:
    ids = world.insert(7)
    world.feeder.tick()
    world.feeder.tick()
    assert world.placed() == 7
    assert world.dispatcher.tick().released == 7
    queue = world.scripts.client.lrange("key.k1", 0, -1)
    assert [i in message.decode() for i, message in zip(ids, reversed(queue), strict=True)] == [True] * 7


def test_a_window_bounds_what_redis_holds_and_order_is_kept_behind_it(world: HealingWorld) -> None:
    world.open(world.database, window=5)
    ids = world.insert(12)
    seen: list[str] = []
    for _ in range(6):
        world.feeder.tick()
        assert world.placed() <= 5
        world.dispatcher.tick()
        seen += [i for i in ids if i not in seen and world.permits.redeem(i, "w1").task_id and _out(world, i)]
    assert seen == ids


def test_rows_of_many_queues_are_fed_in_one_round_each_in_its_order(world: HealingWorld) -> None:
    ids = {name: world.insert(count, name) for name, count in (("alice", 3), ("bob", 1500), ("carol", 2))}
    assert world.feeder.tick() == 0.0, "bob has more"
    assert world.feeder.tick() > 0.0
    for name, of_client in ids.items():
        found = world.scripts.client.lrange(f"backlog.m.{name}\x06\x163", 0, -1)
        assert [json.loads(one)["properties"]["correlation_id"] for one in found[::-1]] == of_client


def test_rows_without_room_are_not_touched(world: HealingWorld) -> None:
    world.insert(3)
    world.feeder.tick()
    (late,) = world.insert(1)
    world.open(world.database, window=3)
    world.feeder.tick()
    assert world.row(late)["fed_at"] is None
    assert world.placed() == 3


def _out(world: HealingWorld, task_id: str) -> bool:
    return bool(world.scripts.client.hexists("penstock:permits", task_id))


class _Killed(BaseException):
    """The feeder's process ends here."""


def test_a_feeder_killed_amidst_its_publishing_loses_nothing_and_doubles_nothing(world: HealingWorld) -> None:
    ids, publish = world.insert(600), world.publisher._publish
    calls: list[int] = []

    def dies_at_the_second(chunk: list[Message], term: str) -> object:
        calls.append(len(chunk))
        if len(calls) == 2:
            raise _Killed
        return publish(chunk, term)

    world.publisher._publish = dies_at_the_second  # type: ignore[assignment,method-assign]
    with pytest.raises(_Killed):
        world.feeder.tick()
    assert world.placed() == calls[0] < 600, "a part of it had been published"
    world.publisher._publish = publish  # type: ignore[method-assign]
    another = Feeder(world.database, world.publisher, world.gate, world.clock)
    another.tick()
    assert world.placed() == calls[0], "the rows are marked: nobody publishes them twice"
    world.clock.at += 5.1
    rows = QueuedRows(world.database, world.gate, world.clock)
    while rows.tick():
        pass
    another.tick()
    assert world.placed() == 600
    (name,) = world.scripts.client.keys("backlog.*")
    messages = world.scripts.client.lrange(name, 0, -1)
    assert sorted(json.loads(m)["properties"]["correlation_id"] for m in messages) == sorted(ids)


def test_what_is_cancelled_while_it_is_being_fed_costs_nothing(world: HealingWorld) -> None:
    ids = world.insert(3)
    publish = world.publisher.publish

    def cancelled_meanwhile(messages: list[Message], *, feeding: bool = False) -> object:
        world.database.write(lambda conn: conn.execute(update(task).values(status="cancelled")))
        world.publisher.forget(ids)
        return publish(messages, feeding=feeding)

    world.publisher.publish = cancelled_meanwhile  # type: ignore[assignment,method-assign]
    world.feeder.tick()
    assert world.placed() == 0
    assert world.dispatcher.tick().released == 0


def test_what_is_due_later_is_fed_when_it_is_due(world: HealingWorld) -> None:
    (task_id,) = world.insert(1, hold=Hold.UNTIL)
    world.database.write(
        lambda conn: conn.execute(update(task).where(task.c.id == task_id).values(available_at=START + 0.3))
    )
    assert world.feeder.tick() == pytest.approx(0.3)
    assert world.placed() == 0
    world.clock.at += 0.3
    world.feeder.tick()
    assert world.placed() == 1


def test_a_row_whose_message_is_in_neither_place_nor_permit_is_fed_again_after_five_seconds(
    world: HealingWorld,
) -> None:
    lost, kept = world.insert(2, fed_at=START)
    message = world.message()
    rows = QueuedRows(world.database, world.gate, world.clock)
    world.scripts.client.hset("penstock:place", kept, "10")
    assert rows.tick() == 0, "too early"
    world.clock.at += 5.1
    assert rows.tick() == 1
    assert world.row(lost)["fed_at"] is None
    assert world.row(kept)["fed_at"] == START
    assert message.task_id != lost


def test_rows_that_were_fed_while_the_clock_was_ahead_and_since_are_found_within_a_pass(
    world: HealingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour forward, at once, and back: neither the cursor nor the time of the next pass stays in the future."""
    passed = 0.0
    monkeypatch.setattr(world.clock, "monotonic", lambda: passed)
    rows = QueuedRows(world.database, world.gate, world.clock)
    world.clock.at = START + 3600
    (fine,) = world.insert(1, fed_at=START + 3590)
    world.scripts.client.hset("penstock:place", fine, "10")
    (ahead,) = world.insert(1, fed_at=START + 3600)
    assert [rows.tick() for _ in range(3)] == [0, 0, 0]
    world.clock.at = START + 10
    (since,) = world.insert(1, fed_at=START + 1)
    world.scripts.client.hdel("penstock:place", fine)
    found = 0
    for _ in range(75):
        found += rows.tick()
        passed += 1
        world.clock.at += 1
    assert found == 3
    assert [world.row(name)["fed_at"] for name in (fine, ahead, since)] == [None, None, None]


def test_a_task_past_its_deadline_expires_and_its_message_costs_nothing(world: HealingWorld) -> None:
    (task_id,) = world.insert(1)
    world.feeder.tick()
    world.clock.at += 3601
    assert Expiry(world.database, world.publisher, world.clock).tick() == 1
    assert world.row(task_id)["status"] == "expired"
    assert world.dispatcher.tick().released == 0


def at_work(world: HealingWorld) -> str:
    """A task in the hands of the worker w1, which is registered and has not beaten yet."""
    (task_id,) = world.insert(1)
    world.feeder.tick()
    world.dispatcher.tick()
    world.database.write(lambda conn: workers.register(conn, "w1", "host", 1, START))
    world.run(task_id)
    return task_id


def test_a_silent_workers_rows_go_back_after_thirty_seconds_and_its_calls_keep_their_places(
    world: HealingWorld,
) -> None:
    task_id = at_work(world)
    lost = LostWorkers(world.database, world.gate, world.publisher, world.clock)
    for _ in range(30):
        assert lost.tick() == 0
        world.clock.at += 1
    assert lost.tick() == 1
    assert world.row(task_id)["status"] == "queued"
    assert int(world.scripts.client.hget("penstock:quota:account:a1:m", "flight") or 0) == 1
    world.report("w2")
    world.feeder.tick()
    assert world.dispatcher.tick().released == 1


def test_while_nothing_can_be_written_no_worker_is_lost(
    world: HealingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: beats are read, and none can be written."""
    task_id = at_work(world)
    lost = LostWorkers(world.database, world.gate, world.publisher, world.clock)

    def full(_fn: object) -> None:
        raise DatabaseUnreachable("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(world.database, "write", full)
        refused = 0
        for _ in range(60):
            try:
                lost.tick()
            except DatabaseUnreachable:
                refused += 1
            world.clock.at += 1
    assert refused
    for _ in range(15):
        assert lost.tick() == 0
        world.clock.at += 1
    held = [(task_id, world.row(task_id)["release"])]
    world.database.write(lambda conn: workers.beat(conn, "w1", held, world.clock.at))
    for _ in range(30):
        assert lost.tick() == 0
        world.clock.at += 1
    assert world.row(task_id)["status"] == "running"
    assert lost.tick() == 1


def test_a_leader_that_slept_takes_no_worker_for_dead(world: HealingWorld) -> None:
    world.database.write(lambda conn: workers.register(conn, "w1", "host", 1, START))
    lost = LostWorkers(world.database, world.gate, world.publisher, world.clock)
    lost.tick()
    world.clock.at += 3600
    lost.tick()
    beats = world.database.read(workers.beats)
    assert "w1" in beats


def test_a_permit_whose_worker_died_between_recording_and_settling_ends(world: HealingWorld) -> None:
    (task_id,) = world.insert(1)
    world.feeder.tick()
    world.dispatcher.tick()
    permit = world.run(task_id)
    world.database.write(
        lambda conn: conn.execute(update(task).where(task.c.id == task_id).values(status="succeeded"))
    )
    _age(world, task_id)
    ended = EndedPermits(world.database, world.gate, world.permits)
    assert ended.tick() == 0, "seen once is not enough"
    assert ended.tick() == 1
    assert not _out(world, task_id)
    world.permits.settle([Settlement(task_id, permit.release, Outcome.SUCCEEDED)])
    assert int(world.scripts.client.hget("penstock:quota:account:a1:m", "flight") or 0) == 0


def test_a_permit_whose_call_runs_stays(world: HealingWorld) -> None:
    (task_id,) = world.insert(1)
    world.feeder.tick()
    world.dispatcher.tick()
    world.run(task_id)
    _age(world, task_id)
    ended = EndedPermits(world.database, world.gate, world.permits)
    assert [ended.tick() for _ in range(3)] == [0, 0, 0]
    assert _out(world, task_id)


def _age(world: HealingWorld, task_id: str) -> None:
    """Make a permit look an hour old."""
    import orjson

    stored = orjson.loads(world.scripts.client.hget("penstock:permits", task_id) or b"")
    stored["t"] -= 3600
    world.scripts.client.hset("penstock:permits", task_id, orjson.dumps(stored))


def test_after_redis_was_emptied_everything_queued_is_fed_again_and_what_runs_keeps_its_permit(
    world: HealingWorld,
) -> None:
    ids = world.insert(5)
    world.feeder.tick()
    world.dispatcher.tick()
    world.database.write(lambda conn: workers.register(conn, "w1", "host", 1, START))
    permit = world.run(ids[0])
    world.scripts.client.flushall()
    assert world.gate.take_lead("term-2", "")
    world.publisher.term = "term-2"
    naps: list[float] = []

    def nap(seconds: float) -> bool:
        naps.append(seconds)
        world.clock.at += seconds
        return False

    assert begin_generation(
        world.gate,
        world.database,
        world.topology,
        world.clock,
        generation="e2",
        upstreams={"k1": "u"},
        configure=world.configure,
        pause=nap,
    )
    assert sum(naps) >= 2.9
    assert all(world.row(task_id)["fed_at"] is None for task_id in ids[1:])
    world.feeder.tick()
    assert world.placed() == 4
    assert _out(world, ids[0])
    assert int(world.scripts.client.hget("penstock:quota:account:a1:m", "flight") or 0) == 1
    world.permits.settle([Settlement(ids[0], permit.release, Outcome.SUCCEEDED)])
    assert int(world.scripts.client.hget("penstock:quota:account:a1:m", "flight") or 0) == 0


@pytest.mark.parametrize("after", [0, 3, 15])
def test_an_epoch_that_is_begun_while_stopping_stays_shut_and_does_not_spin(
    world: HealingWorld, after: int
) -> None:
    """A pause returns at once then: in the wait for what was sent, or between two parts of the backlog."""
    world.insert(2)
    world.feeder.tick()
    world.database.write(lambda conn: workers.register(conn, "w1", "host", 1, START))
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        stopping = len(pauses) > after
        world.clock.at += 0.0001 if stopping else seconds
        return stopping

    opened = begin_generation(
        world.gate,
        world.database,
        world.topology,
        world.clock,
        generation="e2",
        upstreams={"k1": "u"},
        configure=world.configure,
        pause=pause,
    )
    assert not opened
    assert len(pauses) == after + 1
    assert world.scripts.client.hget("penstock:gate", "run_id") is None
    with pytest.raises(GenerationLost):
        world.dispatcher.tick()
