"""The pacing store on a real Redis: what is released, redeemed, settled, put back and refused."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import pytest

from app.pacing.ports import RunningCall
from app.pacing.store.pacing_store import GenerationLost, NotLeading
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.attempt import Brake, Outcome, Permit, RefusedPermit, Settlement
from tests.pacing.pacing_world import GateWorld, one_key
from tests.servers import RedisServer
from tests.stack import wait_until

PACED = ConfiguredQuota("account:a1:m", rpm=600, tpm=60_000, concurrency=50)
# Holds 50 calls at once and gets one back in five seconds: what is in its bucket stays there while a test runs.
UNHURRIED = ConfiguredQuota("account:a1:m", rpm=60, burst=50, tpm=60_000, concurrency=50)
# Sends follow each other by nine tenths of a second, far longer than this machine needs for one.
SPACED = ConfiguredQuota("account:a1:m", rpm=70, burst=5, tpm=60_000, concurrency=50)


@pytest.fixture
def world(redis_url: str) -> GateWorld:
    """A leader over one paced key, its buckets full of 100 calls and 10,000 tokens."""
    gate = GateWorld(
        redis_url, one_key(ConfiguredQuota("account:a1:m", rpm=6000, tpm=600_000, concurrency=50))
    ).lead()
    gate.fill(level=100, tokens=10_000, sent=100)
    return gate


def redeemed(world: GateWorld, task_id: str) -> Permit:
    permit = world.permits.redeem(task_id, "w1")
    assert isinstance(permit, Permit)
    return permit


def level(world: GateWorld, field: str = "level") -> float:
    return float(world.scripts.client.hget("penstock:quota:account:a1:m", field) or 0)


def test_a_released_message_is_in_its_key_queue_with_a_permit_and_nowhere_else(world: GateWorld) -> None:
    messages = world.publish(3)
    assert world.dispatcher.tick().released == 3
    assert world.length("key.k1") == 3
    assert world.length("backlog.m.alice\x06\x163") == 0
    permit = redeemed(world, messages[0].task_id)
    assert (permit.key, permit.upstream, permit.account, permit.upstream_model) == ("k1", "u", "a1", "m")
    assert permit.quotas == world.topology.quota_ids


def test_tasks_leave_in_the_order_in_which_they_came(world: GateWorld) -> None:
    messages = world.publish(5)
    world.dispatcher.tick()
    queue = world.scripts.client.lrange("key.k1", 0, -1)
    assert [m.task_id in q.decode() for m, q in zip(messages, reversed(queue), strict=True)] == [True] * 5


def test_a_permit_is_redeemed_once(world: GateWorld) -> None:
    (message,) = world.publish(1)
    world.dispatcher.tick()
    redeemed(world, message.task_id)
    assert world.permits.redeem(message.task_id, "w2") == RefusedPermit(message.task_id, "missing")


def test_a_task_is_published_once_however_often_it_is_offered(world: GateWorld) -> None:
    (message,) = world.publish(1)
    assert world.publisher.publish([message]) == {}
    assert world.length(f"{message.queue}\x06\x163") == 1
    world.dispatcher.tick()
    assert world.publisher.publish([message]) == {message.task_id: "held"}


def test_ten_thousand_cancelled_tasks_cost_no_quota(world: GateWorld) -> None:
    cancelled = world.publish(10_000)
    (last,) = world.publish(1)
    world.publisher.forget(m.task_id for m in cancelled)
    world.report()  # a report is believed for three seconds
    turns = [world.dispatcher.tick().released for _ in range(6)]
    assert sum(turns) == 1
    redeemed(world, last.task_id)
    assert level(world) > 73


def test_a_retry_returns_to_the_front(world: GateWorld) -> None:
    world.fill(level=1)
    world.publish(3)
    retry = world.message(front=True)
    assert world.publisher.publish([retry]) == {}
    world.dispatcher.tick()
    redeemed(world, retry.task_id)


def test_settling_gives_back_the_slot_and_unused_tokens_and_tells_who_waits(world: GateWorld) -> None:
    (message,) = world.publish(1, estimate=1000)
    with world.scripts.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("penstock:done")
        channel.get_message(timeout=1)
        world.dispatcher.tick()
        permit = redeemed(world, message.task_id)
        before = level(world, "tokens")
        world.permits.settle(
            [Settlement(message.task_id, permit.release, Outcome.SUCCEEDED, tokens=400, ended=True)]
        )
        heard = channel.get_message(timeout=60)
    assert heard is not None
    assert heard["data"] == message.task_id.encode()
    assert level(world, "tokens") >= before + 600
    assert level(world, "flight") == 0


def test_tokens_used_beyond_the_estimate_are_debited(world: GateWorld) -> None:
    (message,) = world.publish(1, estimate=10)
    world.dispatcher.tick()
    permit = redeemed(world, message.task_id)
    world.permits.settle([Settlement(message.task_id, permit.release, Outcome.SUCCEEDED, tokens=19_010)])
    assert level(world, "tokens") < -8_000


def test_a_prompt_above_the_buckets_size_goes_when_it_is_full_and_leaves_a_debt(world: GateWorld) -> None:
    world.publish(1, estimate=50_000)
    assert world.dispatcher.tick().released == 1  # 10,000 is all the bucket holds
    assert level(world, "tokens") < -30_000


def test_a_settlement_of_another_release_changes_nothing(world: GateWorld) -> None:
    (message,) = world.publish(1)
    world.dispatcher.tick()
    permit = redeemed(world, message.task_id)
    world.permits.settle([Settlement(message.task_id, permit.release - 1, Outcome.SUCCEEDED)])
    assert level(world, "flight") == 1


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_settlement_rings_for_the_leader_only_while_something_waits(world: GateWorld, waiting: int) -> None:
    (message,) = world.publish(1)
    world.dispatcher.tick()
    world.publish(waiting)
    permit = redeemed(world, message.task_id)
    world.scripts.client.delete("penstock:wake")
    world.permits.settle([Settlement(message.task_id, permit.release, Outcome.SUCCEEDED)])
    assert world.length("penstock:wake") == waiting


def test_a_permit_from_before_a_brake_is_refused_and_its_task_fed_again(world: GateWorld) -> None:
    first, second = world.publish(2)
    world.dispatcher.tick()
    permit = redeemed(world, first.task_id)
    brake = Brake("account:a1:m", 5.0, "429")
    world.permits.settle([Settlement(first.task_id, permit.release, Outcome.RATE_LIMITED, brakes=(brake,))])
    assert world.permits.redeem(second.task_id, "w1") == RefusedPermit(second.task_id, "braked")
    world.publish(1)
    turn = world.dispatcher.tick()
    assert turn.requeue == (second.task_id,)
    assert turn.released == 0
    assert turn.waits["m"].reason == "account:a1:m"


def test_what_a_permit_waits_too_long_for_goes_back_to_the_front_of_its_queue(world: GateWorld) -> None:
    first, *_ = world.publish(2)
    world.dispatcher.tick()
    assert world.gate.reclaim(0.0) == 2
    assert world.length("key.k1") == 0
    assert world.length(f"{first.queue}\x06\x163") == 2
    assert level(world) > 74
    assert world.dispatcher.tick().released == 2


def test_sends_that_would_bunch_wait_their_moment(redis_url: str) -> None:
    naps: list[float] = []
    world = GateWorld(redis_url, one_key(SPACED)).lead()
    world.fill(level=4, tokens=1000, sent=1)
    messages = world.publish(3)
    assert world.dispatcher.tick().released == 3

    def nap(seconds: float) -> None:
        naps.append(seconds)
        world.fill(sent=1)

    world.permits._sleep = nap
    for message in messages:
        redeemed(world, message.task_id)
    assert len(naps) == 2
    assert all(0.05 < seconds <= 0.92 for seconds in naps)


def test_lost_workers_calls_keep_their_places_while_their_tasks_are_free(world: GateWorld) -> None:
    (message,) = world.publish(1)
    world.dispatcher.tick()
    permit = redeemed(world, message.task_id)
    world.gate.orphan_permits([(message.task_id, permit.release)], 30.0)
    assert level(world, "flight") == 1
    assert world.publisher.publish([message]) == {}
    world.gate.orphan_permits([], 0)
    world.dispatcher.tick()
    second = redeemed(world, message.task_id)
    world.gate.orphan_permits([(message.task_id, second.release)], -1.0)
    assert world.gate.reclaim(60) == 1
    assert level(world, "flight") == 1


def test_a_leader_that_waits_releases_what_comes_meanwhile_at_one_answer(world: GateWorld) -> None:
    """It waits for up to a minute, and is woken by the message; the answer is of the moment after."""
    world.scripts.client.delete("penstock:wake")
    released: list[int] = []
    waiting = Thread(target=lambda: released.append(world.dispatcher.tick(60).released))
    waiting.start()
    wait_until(lambda: world.scripts.client.info("clients")["blocked_clients"] == 1)
    world.scripts.client.script_flush()  # as after a restart: the script is loaded anew
    (message,) = world.publish(1)
    waiting.join(30)
    assert released == [1]
    assert isinstance(world.permits.redeem(message.task_id, "w1"), Permit)


def test_a_leader_that_was_overtaken_while_it_waited_can_do_nothing(world: GateWorld) -> None:
    rival = GateWorld(world.url, world.topology)
    assert rival.gate.take_lead("term-2", "term-1")
    with pytest.raises(NotLeading):
        world.dispatcher.tick(0.01)


def test_a_leader_that_waited_for_nothing_beats_all_the_same(world: GateWorld) -> None:
    world.scripts.client.delete("penstock:wake")
    _, before = world.gate.leader()
    assert world.dispatcher.tick(0.01).released == 0
    assert world.gate.leader() == ("term-1", str(int(before) + 1))


def test_a_leader_that_was_overtaken_can_do_nothing(world: GateWorld) -> None:
    world.publish(1)
    rival = GateWorld(world.url, world.topology)
    assert rival.gate.take_lead("term-2", "term-1")
    with pytest.raises(NotLeading):
        world.dispatcher.tick()
    with pytest.raises(NotLeading):
        world.gate.reclaim(0)
    assert world.publisher.publish([world.message()], feeding=True) != {}
    assert not rival.gate.take_lead("term-3", "term-1")


def test_a_leader_that_resigns_makes_room_at_once(world: GateWorld) -> None:
    world.gate.resign()
    assert world.gate.leader()[0] == ""


def test_nothing_moves_after_redis_was_emptied_until_an_epoch_is_opened(world: GateWorld) -> None:
    (message,) = world.publish(1)
    world.dispatcher.tick()
    permit = redeemed(world, message.task_id)
    world.scripts.client.flushall()
    assert world.publisher.publish([world.message()]).popitem()[1] == "epoch"
    assert world.permits.redeem(message.task_id, "w1") == RefusedPermit(message.task_id, "epoch")
    with pytest.raises((GenerationLost, NotLeading)):
        world.dispatcher.tick()
    assert world.gate.take_lead("term-9", "")
    with pytest.raises(GenerationLost):
        world.dispatcher.tick()
    world.gate.begin_generation("e2", world.topology.keys)
    world.configure()
    call = RunningCall(message.task_id, permit.release, "w1", "k1", "u", "a1", "m", permit.quotas, 10)
    world.gate.open_generation([call], world.topology.quota_ids, ["backlog.m.alice"])
    assert level(world, "flight") == 1
    assert level(world) == 0
    late = world.message()
    assert world.publisher.publish([late]) == {late.task_id: "behind"}
    world.permits.settle([Settlement(message.task_id, permit.release, Outcome.SUCCEEDED)])
    assert level(world, "flight") == 0


def test_a_redis_restarted_from_what_it_had_saved_is_another_epoch(
    make_redis: Callable[..., RedisServer],
) -> None:
    server = make_redis(appendonly=True, appendfsync="always")
    world = GateWorld(server.url, one_key(PACED)).lead()
    world.publish(3)
    server.restart()
    assert world.publisher.publish([world.message()]).popitem()[1] in ("epoch", "unreachable")
    with pytest.raises(GenerationLost):
        world.dispatcher.tick()


def test_a_full_queue_refuses_and_keeps_order_until_the_feeder_has_caught_up(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(UNHURRIED), window=3).lead()
    world.publish(3)
    refused = world.message()
    assert world.publisher.publish([refused]) == {refused.task_id: "full"}
    world.fill(level=2, tokens=1000, sent=2)
    assert world.dispatcher.tick().released == 2
    overtaker = world.message()
    assert world.publisher.publish([overtaker]) == {overtaker.task_id: "behind"}
    assert world.publisher.publish([refused], feeding=True) == {}
    queue, seen = next(iter(world.gate.overflows().items()))
    world.gate.clear_overflow(queue, "0")
    assert world.gate.overflows() == {queue: seen}
    world.gate.clear_overflow(queue, seen)
    assert world.publisher.publish([overtaker]) == {}


def test_a_queue_with_little_takes_some_while_the_window_of_all_is_full(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(PACED), window_of_all=150).lead()
    world.publish(150)
    refused = world.message()
    assert world.publisher.publish([refused]) == {refused.task_id: "full"}
    world.publish(100, "bob")
    late = world.message("bob")
    assert world.publisher.publish([late]) == {late.task_id: "full"}


def test_a_round_of_feeding_gives_room_to_the_emptiest_first(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(PACED)).lead()
    world.publish(120)
    world.publish(30, "bob")
    queues = [f"backlog.m.{name}" for name in ("alice", "bob", "carol")]

    def rooms(window: int, of_all: int, most: int = 1000) -> list[int]:
        return [int(room) for room in world.scripts.run("rooms", window, of_all, 0.6, most, *queues)]

    assert rooms(200, 1000) == [80, 170, 200]
    assert rooms(200, 1000, most=50) == [50, 50, 50]
    assert rooms(200, 400) == [0, 70, 200]
    assert rooms(200, 150) == [0, 70, 100]
    assert world.gate.rooms(queues, 50, 1000) == dict(zip(queues, (0, 20, 50), strict=True))


def test_a_redis_short_of_memory_refuses_before_it_is_full(make_redis: Callable[..., RedisServer]) -> None:
    world = GateWorld(make_redis(maxmemory="20mb").url, one_key(PACED)).lead()
    for number in range(33):
        world.scripts.client.set(f"ballast-{number}", "x" * 400_000)
    message = world.message()
    assert world.publisher.publish([message]) == {message.task_id: "memory"}
    assert world.gate.rooms([message.queue], 50, 10) == {message.queue: 0}


def test_a_redis_that_is_gone_refuses_and_is_not_asked_again_for_a_second(
    make_redis: Callable[..., RedisServer],
) -> None:
    server = make_redis()
    world = GateWorld(server.url, one_key(PACED)).lead()
    server.kill()
    message = world.message()
    assert world.publisher.publish([message]) == {message.task_id: "unreachable"}
    assert not world.publisher.believed_up()
    world.clock.at += 1.1
    assert world.publisher.believed_up()
    assert world.permits.redeem(message.task_id, "w1") == RefusedPermit(message.task_id, "unreachable")


def test_a_wall_clock_that_steps_does_not_flood_the_gate(redis_url: str) -> None:
    world = GateWorld(redis_url, one_key(UNHURRIED)).lead()
    world.fill(level=0, tokens=0, sent=0)
    world.publish(50)
    world.scripts.client.hincrbyfloat(
        "penstock:gate", "clock", -3600
    )  # as if the clock had leapt an hour ahead
    assert world.dispatcher.tick().released <= 10
    world.scripts.client.hincrbyfloat("penstock:gate", "clock", 7200)  # and now back by an hour
    released = world.dispatcher.tick().released
    assert 0 <= released <= 10


def test_a_worker_that_reports_no_more_has_no_slots(world: GateWorld) -> None:
    world.publish(5)
    world.slots = 0
    world.report()
    assert world.dispatcher.tick().released == 0
    world.slots = 2
    world.report()
    assert world.dispatcher.tick().released == 2
    world.scripts.client.hset("penstock:workers", "w1", b"1.0|" + b'{"keys": ["k1"], "slots": 9, "held": 0}')
    assert world.dispatcher.tick().released == 0


def test_permits_are_listed_with_their_release_once_they_are_old(world: GateWorld) -> None:
    (message,) = world.publish(1)
    world.dispatcher.tick()
    permit = redeemed(world, message.task_id)
    assert world.gate.permits_page(0, 10.0) == (0, {})
    assert world.gate.permits_page(0, -1.0) == (0, {message.task_id: permit.release})
    assert world.gate.placed([message.task_id, "task_unknown"]) == [True, False]
