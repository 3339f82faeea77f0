"""Pauses that grow while nothing succeeds, on a real gate, with pacing time moved by hand."""

from __future__ import annotations

import pytest

from app.pacing.domain.rate_controller import RateController
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.attempt import Brake, Outcome, Permit, Settlement
from tests.pacing.pacing_world import GateWorld, one_key

ACCOUNT = "account:a1:m"
STEP = 0.25  # seconds of pacing time between two turns


class Refusing:
    """A hundred tasks that wait for a key whose upstream refuses, or takes, each call within a turn."""

    def __init__(self, redis_url: str, outcome: Outcome, asked: float | None = None) -> None:
        self.world = GateWorld(redis_url, one_key(ConfiguredQuota(ACCOUNT, rpm=6000, concurrency=20))).lead()
        self.world.dispatcher.controller = RateController(self.world.topology, breaker=None)
        self.outcome, self.asked, self.passed = outcome, asked, 0.0
        self.calls: list[float] = []

    def run(self, seconds: float) -> Refusing:
        until = self.passed + seconds
        while self.passed < until:
            self.world.scripts.client.hincrbyfloat("penstock:gate", "skew", -STEP)
            self.passed += STEP
            self.world.report()
            if self.world.sequence - len(self.calls) < 50:
                self.world.publish(100)
            self.world.dispatcher.tick()
            self.answer()
        return self

    def answer(self) -> None:
        unredeemed = self.world.scripts.client.zrange("penstock:unredeemed", 0, -1)
        for permit in [self.world.permits.redeem(task_id.decode(), "w1") for task_id in unredeemed]:
            assert isinstance(permit, Permit)
            self.calls.append(self.passed)
            self.world.permits.settle([self.settlement(permit)])

    def settlement(self, permit: Permit) -> Settlement:
        refused = self.outcome is not Outcome.SUCCEEDED
        brakes = (Brake(ACCOUNT, self.asked or 1.0, str(self.outcome)),) if refused else ()
        asked = self.asked if refused else None
        return Settlement(
            permit.task_id, permit.release, self.outcome, brakes=brakes, seconds=0.1, asked=asked
        )


@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.OVERLOADED])
def test_one_call_goes_after_each_of_the_growing_pauses_whatever_waits(
    redis_url: str, outcome: Outcome
) -> None:
    refusing = Refusing(redis_url, outcome).run(130)
    after = [at for at in refusing.calls if at > refusing.calls[0]]
    assert len(after) == len(set(after))
    assert 5 <= len(after) <= 8  # 1, 2, 4, 8, 16, 32, 32 s apart


def test_the_first_success_brings_back_the_pace(redis_url: str) -> None:
    refusing = Refusing(redis_url, Outcome.RATE_LIMITED).run(20)
    refusing.outcome = Outcome.SUCCEEDED
    before = len(refusing.calls)
    while len(refusing.calls) == before:
        refusing.run(STEP)
    refusing.run(10)
    assert refusing.passed <= 20 + 16 + 10 + 1
    assert len(refusing.calls) - before >= 0.9 * 10 * 20 / STEP / 4  # 20 at once, each over within a turn


def test_a_pause_that_a_503_asks_for_is_kept(redis_url: str) -> None:
    refusing = Refusing(redis_url, Outcome.OVERLOADED, asked=5.0).run(22)
    after = sorted({at for at in refusing.calls if at > refusing.calls[0]})
    assert len(after) == len([at for at in refusing.calls if at > refusing.calls[0]])
    assert 3 <= len(after) <= 4


def test_a_new_leader_on_an_empty_redis_probes_and_goes_on_pausing(redis_url: str) -> None:
    refusing = Refusing(redis_url, Outcome.RATE_LIMITED).run(70)
    first = refusing.world.dispatcher.controller
    assert first is not None
    world = GateWorld(redis_url, refusing.world.topology)
    world.scripts.client.flushdb()
    world.lead("term-2")
    successor = RateController(world.topology, breaker=None)
    successor.recall(first.facts())
    world.dispatcher.controller = successor
    refusing.world, before = world, len(refusing.calls)
    refusing.run(60)
    assert 1 <= len(refusing.calls) - before <= 3
