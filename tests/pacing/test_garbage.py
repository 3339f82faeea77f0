"""What is not ours in Redis is set aside and counted, wherever it stands; what waits goes on being released."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.pacing.store.pacing_store import GenerationLost, NotLeading
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.attempt import Message, Outcome, Permit, Settlement
from tests.pacing.pacing_world import GateWorld, one_key

QUOTA = ConfiguredQuota("account:a1:m", rpm=6000, tpm=600_000, concurrency=50)
LIST = "backlog.m.alice\x06\x163"

Client = redis.Redis


class Leader:
    """As the dispatcher process leads: what ends a generation begins another, from what the database holds."""

    def __init__(self, url: str) -> None:
        self.world = GateWorld(url, one_key(QUOTA)).lead()
        self.aside: Counter[str] = Counter()
        self.world.gate.unreadable = lambda kind, count: self.aside.update({kind: count})
        self.world.fill(level=100, tokens=10_000, sent=100)
        self.waiting = {message.task_id: message for message in self.world.publish(3)}
        self.generations = 0

    def leads(self, turns: int = 4, wait: float = 0.0) -> None:
        for _ in range(turns):
            try:
                self.requeue(self.world.dispatcher.tick(wait).requeue)
                self.world.gate.reclaim(60.0)
            except GenerationLost:
                self.begin()
            except NotLeading:
                assert self.world.gate.take_lead("term-2", self.world.gate.leader()[0])

    def begin(self) -> None:
        self.generations += 1
        world = self.world
        world.gate.begin_generation(f"epoch-{self.generations}", world.topology.keys)
        world.configure()
        world.gate.open_generation([], world.topology.quota_ids, [])
        world.fill(level=100, tokens=10_000, sent=100)
        world.report()
        world.publisher.publish(list(self.waiting.values()))

    def requeue(self, task_ids: tuple[str, ...]) -> None:
        self.world.publisher.publish([self.waiting[one] for one in task_ids if one in self.waiting])

    def released(self) -> set[str]:
        messages = self.world.scripts.client.lrange("key.k1", 0, -1)
        return {json.loads(message)["properties"]["correlation_id"] for message in messages}


@pytest.fixture
def leader(redis_url: str) -> Leader:
    return Leader(redis_url)


def put(key: str, field: str, value: str | bytes) -> Callable[[Client], object]:
    return lambda client: client.hset(key, field, value)


def retyped(key: str, other: str = "string") -> Callable[[Client], object]:
    def act(client: Client) -> None:
        client.delete(key)
        if other == "string":
            client.set(key, "garbage")
        else:
            client.rpush(key, "garbage")

    return act


ENTRIES = [
    ("place", put("penstock:place", "task_alice_1", "garbage")),
    ("place", put("penstock:place", "task_alice_2", "10|||first||")),
    ("place", put("penstock:place", "task_alice_2", b"\xff\xfe|\xff")),
    ("queue", put("penstock:queues", "nonsense", "99999")),
    ("queue", put("penstock:queues", b"\xff\xfe", "99999")),
    ("worker", put("penstock:workers", "w9", "garbage")),
    ("worker", put("penstock:workers", "w9", "12.5|{}")),
    ("worker", put("penstock:workers", b"w\xff", "12.5|[]")),
    ("outcome", lambda client: client.rpush("penstock:outcomes", '[{"outcome": "unheard of"}, {}]')),
    ("outcome", lambda client: client.rpush("penstock:outcomes", "garbage")),
    ("outcome", lambda client: client.rpush("penstock:outcomes", b"\xff\xfe")),
    ("message", lambda client: client.rpush(LIST, "garbage")),
    ("message", lambda client: client.rpush(LIST, b"\xff\xfe")),
    ("message", lambda client: client.rpush(LIST, '{"properties": {"correlation_id": "a|b c"}}')),
    ("ghost", lambda client: client.zadd("penstock:orphan permits", {"garbage": 1.0})),
    ("ghost", lambda client: client.zadd("penstock:orphan permits", {'{"q": 5}': 1.0})),
]


@pytest.mark.parametrize(("kind", "act"), ENTRIES)
def test_an_entry_that_cannot_be_read_is_set_aside_once_and_the_tick_goes_on(
    leader: Leader, kind: str, act: Callable[[Client], object]
) -> None:
    act(leader.world.scripts.client)
    leader.leads(6)
    assert leader.released() == set(leader.waiting)
    assert leader.aside == {kind: 1}
    assert leader.generations == 0


STRUCTURES = [
    "penstock:place",
    "penstock:permits",
    "penstock:queues",
    "penstock:overflow",
    "penstock:flight",
    "penstock:workers",
    "penstock:unredeemed",
    "penstock:orphan permits",
    "penstock:outcomes",
    "penstock:refeed",
    "penstock:quota:account:a1:m",
    "penstock:gate",
    "penstock:aside:counts",
    LIST,
    "key.k1",
]


@pytest.mark.parametrize("key", STRUCTURES)
@pytest.mark.parametrize("other", ["string", "list"])
def test_a_structure_of_another_type_is_renamed_and_a_new_epoch_begins(
    leader: Leader, key: str, other: str
) -> None:
    if other == "list" and key in ("penstock:outcomes", LIST, "key.k1"):
        pytest.skip("it is a list")
    retyped(key, other)(leader.world.scripts.client)
    leader.leads(8)
    assert leader.released() == set(leader.waiting)


@pytest.mark.parametrize(
    "act",
    [
        put("penstock:flight", "k1", "many"),
        put("penstock:quota:account:a1:m", "level", "full"),
        put("penstock:quota:account:a1:m", "brakes", "some"),
        put("penstock:gate", "changes", "a few"),
        put("penstock:gate", "beat", "now and then"),
        retyped("penstock:wake"),
    ],
)
def test_a_word_where_something_is_counted_does_not_stop_the_leader(
    leader: Leader, act: Callable[[Client], object]
) -> None:
    act(leader.world.scripts.client)
    leader.leads(6, wait=0.01)
    assert leader.released() == set(leader.waiting)


def test_a_permit_that_cannot_be_read_is_none_and_its_task_is_fed_again(leader: Leader) -> None:
    leader.leads(1)
    client, task_id = leader.world.scripts.client, "task_alice_1"
    client.hset("penstock:permits", task_id, "garbage")
    assert not isinstance(leader.world.permits.redeem(task_id, "w1"), Permit)
    assert not client.hexists("penstock:permits", task_id)
    client.hset("penstock:permits", task_id, '{"n": 7}')
    leader.world.permits.settle([Settlement(task_id, 7, Outcome.SUCCEEDED)])
    client.hset("penstock:permits", "task_9", "garbage")
    client.zadd("penstock:unredeemed", {"task_9": 1.0})
    leader.world.gate.reclaim(60.0)
    assert client.zscore("penstock:unredeemed", "task_9") is None
    turn = leader.world.dispatcher.tick()
    assert {"task_9", task_id} <= set(turn.requeue)
    assert leader.aside["permit"] == 3
    assert client.lrange("penstock:aside", 0, 0) == [b"garbage"]


NAMES = st.text(st.characters(exclude_categories=()), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(avoid=st.lists(NAMES, min_size=1, max_size=3))
def test_no_name_of_a_key_that_a_task_avoids_stops_the_leader(redis_url: str, avoid: list[str]) -> None:
    world = GateWorld(redis_url, one_key(QUOTA)).lead()
    world.fill(level=100, tokens=10_000, sent=100)
    message: Message = world.message(avoid=tuple(avoid), facts="0|;" + avoid[0], prefix=avoid[-1])
    assert world.publisher.publish([message]) == {}
    view = world.gate.look(8, world.topology, world.topology.quota_ids)
    assert [head.avoid for one in view.waiting for head in one.heads] == [tuple(avoid)]
    assert world.dispatcher.tick().released == 1
