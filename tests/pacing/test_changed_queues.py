"""The leader is told of changed queues alone, and sees what it would see if it looked at everything."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.pacing.domain.plan import WaitingList
from app.pacing.store.pacing_store import RedisPacingStore
from app.settings.domain.routing import ConfiguredQuota
from tests.pacing.pacing_world import GateWorld, one_key

CLIENTS = ("alice", "bob", "carol")


def begin(world: GateWorld) -> GateWorld:
    """A new epoch, with full buckets."""
    world.scripts.client.flushall()
    world.lead()
    world.fill(level=100_000, sent=100_000)
    return world


@pytest.fixture
def world(redis_url: str) -> GateWorld:
    quota = ConfiguredQuota("account:a1:m", rpm=600_000, burst=100_000, concurrency=6)
    return begin(GateWorld(redis_url, one_key(quota)))


def seen(world: GateWorld, depth: int, gate: RedisPacingStore | None = None) -> set[WaitingList]:
    """All lists, with as many heads as were asked for."""
    look = (gate or world.gate).look(depth, world.topology, world.topology.quota_ids)
    return {WaitingList(w.queue, w.model, w.client, w.step, w.length, w.heads[:depth]) for w in look.waiting}


def act(world: GateWorld, what: str, client: str) -> None:
    if what == "forget":
        placed = [name.decode() for name in world.scripts.client.hkeys("penstock:place")]
        world.publisher.forget([name for name in placed if f"_{client}_" in name][:2])
    elif what == "release":
        world.dispatcher.tick()
    elif what == "take back":
        world.gate.reclaim(0.0)
    elif what == "end":
        world.scripts.client.delete("penstock:permits", "penstock:unredeemed", "key.k1")
        world.scripts.client.hset("penstock:quota:account:a1:m", "flight", "0")
    elif what == "urgent":
        world.publish(1, client, due=float(1000 + world.sequence % 3))
    else:
        world.publish(3, client, front=what == "retry", step=0 if what == "high" else 3)


acts = st.sampled_from(["plain", "high", "retry", "urgent", "forget", "release", "take back", "end"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(acts, st.sampled_from(CLIENTS), st.integers(1, 5)), min_size=3, max_size=25))
def test_what_is_known_is_what_stands_there(world: GateWorld, steps: list[tuple[str, str, int]]) -> None:
    begin(world)
    for what, client, depth in steps:
        act(world, what, client)
        known = seen(world, depth)
        assert known == seen(world, depth, RedisPacingStore(world.scripts, world.gate.term)), what


def test_a_queue_that_did_not_change_is_not_looked_at(world: GateWorld) -> None:
    world.publish(200)
    world.publish(200, "bob")
    seen(world, 4)
    world.scripts.client.delete("backlog.m.alice\x06\x163")  # nobody tells of this
    world.publish(1, "bob")  # nor of this: it comes behind all that may be known
    assert {(w.client, w.length) for w in seen(world, 4)} == {("alice", 200), ("bob", 200)}
    assert {(w.client, w.length) for w in seen(world, 5)} == {("bob", 201)}, "deeper: everything is looked at"


def test_a_queue_that_changed_is_looked_at(world: GateWorld) -> None:
    world.publish(200)
    world.publish(200, "bob")
    seen(world, 4)
    world.publish(1, "bob", front=True)
    assert {(w.client, w.length) for w in seen(world, 4)} == {("alice", 200), ("bob", 201)}


def test_a_new_epoch_is_looked_at_anew(world: GateWorld) -> None:
    for _ in range(5):
        world.publish(1)
        seen(world, 4)
    begin(world)
    assert seen(world, 4) == set()
    world.publish(1, "bob")
    assert {w.client for w in seen(world, 4)} == {"bob"}


def test_many_cancelled_messages_are_dropped_a_part_at_a_look_until_none_is_left(world: GateWorld) -> None:
    ids = [message.task_id for message in world.publish(4500)]
    (last,) = world.publish(1)
    world.publisher.forget(ids)
    looks = 0
    while not (heads := [head.task_id for w in seen(world, 4) for head in w.heads]):
        looks += 1
        assert looks < 5
    assert heads == [last.task_id]
