"""Nearest deadline first inside a list, whatever the order in which messages come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.dispatching.feed_backlog import Feeder
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import NOT_DUE
from app.tasks.store.submissions import insert_tasks
from tests.pacing.pacing_world import GateWorld, one_key

MOST = 500  # messages of a list that go by their deadline


@pytest.fixture
def world(redis_url: str) -> GateWorld:
    return GateWorld(redis_url, one_key(ConfiguredQuota("account:a1:m", rpm=60_000))).lead()


def queued(world: GateWorld) -> list[str]:
    """A list's tasks in the order of serving."""
    look = world.gate.look(3000, world.topology, world.topology.quota_ids)
    return [head.task_id for one in look.waiting for head in one.heads]


kinds = st.sampled_from(["plain", "retry"]) | st.integers(1, 6).map(float)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(kinds, min_size=1, max_size=12), max_size=8))
def test_a_list_is_served_retries_first_then_by_deadline_then_as_they_came(
    world: GateWorld, calls: list[list[str | float]]
) -> None:
    world.scripts.client.delete("penstock:place", "backlog.m.alice\x06\x163")
    due: list[tuple[float, int, str]] = []
    plain: list[str] = []
    retries: list[str] = []
    for kinds_ in calls:
        messages = []
        for kind in kinds_:
            message = world.message()
            if isinstance(kind, float):
                message = replace(message, due=kind)
                due.append((kind, message.sequence, message.task_id))
            elif kind == "retry":
                message = replace(message, front=True)
                retries.insert(0, message.task_id)
            else:
                plain.append(message.task_id)
            messages.append(message)
        assert world.publisher.publish(messages) == {}
    by_deadline = [name for _, _, name in sorted(due)]
    assert queued(world) == [*retries, *by_deadline, *plain]


def test_more_than_a_few_hundred_wait_in_the_database_and_plain_ones_do_not_wait_for_them(
    world: GateWorld,
) -> None:
    many = [world.message(due=1e6 + n) for n in range(MOST + 20)]
    refused = world.publisher.publish(many, feeding=True)
    assert list(refused.values()) == ["full"] * 20
    assert set(refused) == {message.task_id for message in many[MOST:]}
    assert world.gate.ordered_room("backlog.m.alice") == {0: MOST, 3: 0, 6: MOST}
    retry = world.message(due=2e6, front=True)
    assert world.publisher.publish([retry, world.message()], feeding=True) == {}
    assert queued(world)[MOST] == retry.task_id


def test_what_nobody_redeemed_goes_back_to_its_place(world: GateWorld) -> None:
    world.fill(level=1, sent=1)
    (late,) = world.publish(1, due=2000.0)
    assert world.dispatcher.tick().released == 1
    (soon,), (later,) = world.publish(1, due=1000.0), world.publish(1, due=3000.0)
    world.gate.reclaim(0.0)
    assert queued(world) == [soon.task_id, late.task_id, later.task_id]


def test_hundreds_that_nobody_redeemed_go_back_in_one_pass_over_their_list(world: GateWorld) -> None:
    world.slots = MOST
    world.report()
    world.fill(level=MOST, sent=MOST)
    published = [one.task_id for n in range(MOST) for one in world.publish(1, due=1000.0 + n)]
    released = 0
    while released < MOST:
        released += world.dispatcher.tick().released
    later = world.publish(1, due=5000.0)[0].task_id
    before = pushes(world)
    assert world.gate.reclaim(0.0) == MOST
    assert pushes(world) - before <= 2 * MOST
    assert queued(world) == [*published, later]


def pushes(world: GateWorld) -> int:
    """How many commands have pushed to lists since Redis began, those of scripts included."""
    told = world.scripts.client.info("commandstats")
    return sum(told.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("rpush", "lpush"))


def test_a_backlog_larger_than_the_window_is_served_nearest_deadline_first_throughout(
    world: GateWorld, tmp_path: Path
) -> None:
    """Feeder, database and lists together; urgent ones come in the middle of it."""
    url = f"sqlite:///{tmp_path}/order.db"
    upgrade(url)
    database = Database(url)
    feeder = Feeder(database, world.publisher, world.gate, world.clock)
    dues = {f"task_{n:04}": 10_000.0 + (n * 7919) % 1200 for n in range(1200)}
    add(database, dues)
    served: list[str] = []
    while len(served) < 1210:
        feeder.tick()
        feeder.tick()
        heads = queued(world)[:100]
        assert heads
        served += heads
        world.publisher.forget(heads)
        if len(served) == 600:
            add(database, {f"task_urgent_{n}": 5_000.0 + n for n in range(10)})
    database.close()
    assert served[:600] == sorted(dues, key=dues.__getitem__)[:600]
    urgent = served.index("task_urgent_0")
    assert 600 <= urgent <= 700  # as soon as there was room
    assert served[urgent : urgent + 10] == [f"task_urgent_{n}" for n in range(10)]
    assert [name for name in served if "urgent" not in name] == sorted(dues, key=dues.__getitem__)


def add(database: Database, dues: dict[str, float]) -> None:
    rows = [
        NewTask(
            id=name,
            client_id="alice",
            model="m",
            queue="backlog.m.alice",
            step=3,
            estimate=10,
            created_at=1.0,
            available_at=1.0,
            expires_at=min(due, NOT_DUE),
            request="{}",
            due=due,
        )
        for name, due in dues.items()
    ]
    database.write(lambda conn: insert_tasks(conn, rows))
