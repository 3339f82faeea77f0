"""Lone refusals of a key with configured limits, on a real gate, with pacing time moved by hand."""

from __future__ import annotations

import pytest

from app.pacing.domain.rate_controller import RateController
from app.settings.domain.routing import ConfiguredQuota, request_bucket
from app.tasks.domain.attempt import Brake, Outcome, Permit, Settlement
from tests.pacing.pacing_world import GateWorld, one_key

ACCOUNT = "account:a1:m"
CONFIGURED = ConfiguredQuota(ACCOUNT, rpm=600, concurrency=20)


def governed(redis_url: str) -> GateWorld:
    world = GateWorld(redis_url, one_key(CONFIGURED)).lead()
    world.dispatcher.controller = RateController(world.topology)
    world.dispatcher.tick()
    return world


def move(world: GateWorld, seconds: float) -> None:
    """Let pacing time pass: the dispatcher takes a turn four times a second of it."""
    for _ in range(int(seconds * 4)):
        world.scripts.client.hincrbyfloat("penstock:gate", "skew", -0.25)
        world.report()
        world.dispatcher.tick()


def call(world: GateWorld, outcome: Outcome) -> None:
    (message,) = world.publish(1)
    assert world.dispatcher.tick().released == 1
    permit = world.permits.redeem(message.task_id, "w1")
    assert isinstance(permit, Permit)
    braked = () if outcome is Outcome.SUCCEEDED else (Brake(ACCOUNT, 1.0, str(outcome)),)
    world.permits.settle([Settlement(permit.task_id, permit.release, outcome, brakes=braked, seconds=0.1)])
    world.dispatcher.tick()


@pytest.mark.parametrize("refusals", [1, 4])
@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.OVERLOADED])
def test_lone_refusals_leave_the_configured_limits_in_force(
    redis_url: str, outcome: Outcome, refusals: int
) -> None:
    world = governed(redis_url)
    for _ in range(refusals):
        move(world, 3)
        call(world, outcome)
        move(world, 2)
        call(world, Outcome.SUCCEEDED)
    move(world, 8)
    state = world.scripts.client.hgetall(f"penstock:quota:{ACCOUNT}")
    whole = request_bucket(CONFIGURED)
    assert whole is not None
    assert float(state[b"rate"]) >= 0.9 * whole.rate
    assert state[b"cap"] == b"20"
    world.publish(10)
    assert (
        world.dispatcher.tick().released >= 7
    )  # a burst of one second's worth, less what jitter is kept for
