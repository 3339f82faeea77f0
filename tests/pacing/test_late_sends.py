"""Calls that a slow process sends later than they were counted: never more at once than the configured limits allow."""

from __future__ import annotations

import pytest

from app.pacing.store.permits import LATE_FOR, SOON
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.attempt import Permit, RefusedPermit
from simulator.limits import TokenBucket
from tests.pacing.pacing_world import GateWorld, one_key

PER_MINUTE = 600.0  # ten a second; ten at once, by default


class SlowWorld:
    """Permits on a clock that is moved: that of the worker and that of the pacing store together."""

    def __init__(self, redis_url: str, *, rpm: float = PER_MINUTE, most: int = 100) -> None:
        quota = ConfiguredQuota("account:a1:m", rpm=rpm, concurrency=most)
        self.world = GateWorld(redis_url, one_key(quota), slots=most).lead()
        self.at = 1000.0
        self.world.permits._monotonic = lambda: self.at
        self.world.permits._sleep = self.pass_
        # As strict as the configured limit: one second's worth at once, and no call more.
        self.upstream = TokenBucket(rpm, 1.0, self.pacing_time())
        self.refused = self.sent = 0

    def pass_(self, seconds: float) -> None:
        self.at += seconds
        self.world.scripts.client.hincrbyfloat("penstock:gate", "skew", -seconds)

    def released(self, count: int) -> list[str]:
        messages = self.world.publish(count)
        self.world.report()
        done = 0
        for _ in range(20):
            self.world.fill(level=100)
            done += self.world.dispatcher.tick().released
        assert done == count
        return [message.task_id for message in messages]

    def redeem(self, task_id: str) -> Permit:
        permit = self.world.permits.redeem(task_id, "w1")
        assert isinstance(permit, Permit)
        return permit

    def send(self, permit: Permit, patience: float = 2.0) -> bool:
        if not self.world.permits.may_send(permit, self.at + patience):
            return False
        self.sent += 1
        self.refused += not self.upstream.has(1, self.pacing_time())
        self.upstream.take(1, self.pacing_time())
        return True

    def pacing_time(self) -> float:
        seconds, micros = self.world.scripts.client.time()
        return (
            float(seconds)
            + micros / 1e6
            - float(self.world.scripts.client.hget("penstock:gate", "skew") or 0)
        )


@pytest.fixture
def slow(redis_url: str) -> SlowWorld:
    return SlowWorld(redis_url)


def test_calls_held_up_on_their_way_are_not_sent_together_with_those_that_follow(slow: SlowWorld) -> None:
    """As after a breaker has closed on a busy machine: what was counted a second ago, and what is counted now."""
    slow.world.fill(sent=8)
    held_up = [slow.redeem(task_id) for task_id in slow.released(8)]
    slow.pass_(1.0)
    following = [slow.redeem(task_id) for task_id in slow.released(8)]
    for permit in [*held_up, *following]:
        slow.send(permit, patience=5.0)
    assert slow.sent == 16
    assert slow.refused == 0


@pytest.mark.parametrize("stall", [0.2, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("rpm", [300.0, 600.0, 1500.0])
def test_no_stall_makes_more_calls_at_once_than_one_seconds_worth(
    redis_url: str, rpm: float, stall: float
) -> None:
    slow, per_second = SlowWorld(redis_url, rpm=rpm), rpm / 60
    slow.world.fill(sent=per_second)
    for _ in range(4):
        permits = [slow.redeem(task_id) for task_id in slow.released(max(1, int(per_second * stall / 2)))]
        slow.pass_(stall)
        for permit in permits:
            slow.send(permit, patience=60.0)
    assert slow.sent
    assert slow.refused == 0


def test_a_call_that_is_sent_at_once_is_counted_once(slow: SlowWorld) -> None:
    slow.world.fill(sent=2)
    (task_id,) = slow.released(1)
    permit = slow.redeem(task_id)
    before = level(slow)
    slow.at += SOON * 0.9
    assert slow.send(permit)
    assert level(slow) == before


def test_for_a_while_after_a_late_call_each_is_counted_when_it_is_sent_and_only_then(slow: SlowWorld) -> None:
    slow.world.fill(sent=5)
    task_ids = slow.released(3)
    late = slow.redeem(task_ids[0])
    slow.pass_(0.3)
    assert slow.send(late)
    slow.world.fill(sent=5)
    permit = slow.redeem(task_ids[1])
    assert (permit.counted_at, level(slow)) == (None, 5)
    assert slow.send(permit)
    assert level(slow) == pytest.approx(4, abs=0.9)
    slow.at += LATE_FOR
    assert slow.redeem(task_ids[2]).counted_at == slow.at


def test_who_has_no_time_left_to_wait_does_not_send(slow: SlowWorld) -> None:
    (task_id,) = slow.released(1)
    slow.world.fill(sent=1)
    permit = slow.redeem(task_id)
    slow.at += 0.5  # of the worker alone: nothing is refilled
    slow.world.fill(sent=-10)
    assert not slow.send(permit, patience=0.05)


def test_without_its_epoch_a_late_call_is_not_sent(redis_url: str) -> None:
    slow = SlowWorld(redis_url)
    (task_id,) = slow.released(1)
    slow.world.fill(sent=1)
    permit = slow.redeem(task_id)
    slow.pass_(0.5)
    slow.world.scripts.client.hdel("penstock:gate", "run_id")  # as if Redis had lost what it held
    assert not slow.send(permit)
    assert isinstance(slow.world.permits.redeem(task_id, "w1"), RefusedPermit)


def level(slow: SlowWorld) -> float:
    """What may still be sent at once."""
    return float(slow.world.scripts.client.hget("penstock:quota:account:a1:m", "sent"))
