"""A task that a limit refused goes to whatever else is open; alone with its key it waits for the brake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.execution.domain.retry import RetryContext, RetryPolicy, decide
from app.pacing.domain.brake import brakes
from app.settings.domain.routing import Route, Topology
from app.tasks.domain.attempt import Outcome, Permit, Settlement
from app.upstreams.domain.classify import CallVerdict
from tests.attempts import a_claimed
from tests.pacing.pacing_world import GateWorld

REFUSALS = (Outcome.RATE_LIMITED, Outcome.OVERLOADED)


def world_of(redis_url: str, *tiers: tuple[str, ...]) -> GateWorld:
    """Keys by tier, each of an account and an upstream of its own."""
    routes = tuple(tuple(Route(key, f"u-{key}", f"a-{key}", "m") for key in tier) for tier in tiers)
    return GateWorld(redis_url, Topology({"m": routes}, {})).lead()


def redeemed(world: GateWorld, task_id: str) -> Permit | None:
    found = world.permits.redeem(task_id, "w1")
    return found if isinstance(found, Permit) else None


def refuse(world: GateWorld, permit: Permit, outcome: Outcome, seconds: float) -> None:
    """What a worker and the feeder do with a refusal."""
    verdict = CallVerdict(outcome, status_code=429, retry_after_seconds=seconds)
    claimed = a_claimed(permit)
    end = decide(claimed, verdict, RetryContext(RetryPolicy(), world.topology.keys, claimed.started_at, 0.0))
    braked = brakes(permit, verdict, 0.0)
    world.permits.settle([Settlement(permit.task_id, permit.release, outcome, brakes=braked)])
    assert end.available_at == claimed.started_at
    again = replace(world.message(), task_id=permit.task_id, avoid=end.avoid, front=True)
    assert world.publisher.publish([again], feeding=True) == {}


def served_after_refusals(world: GateWorld, outcome: Outcome, limited: set[str]) -> list[str]:
    """The keys that one task met: `limited` ones refuse it."""
    (task,) = world.publish(1)
    met: list[str] = []
    while world.dispatcher.tick().released:
        permit = redeemed(world, task.task_id)
        assert permit is not None
        met.append(permit.key)
        if permit.key not in limited:
            break
        refuse(world, permit, outcome, 30.0)
    return met


@pytest.mark.parametrize("outcome", REFUSALS)
def test_the_refused_task_itself_goes_to_the_backup_tier(redis_url: str, outcome: Outcome) -> None:
    assert served_after_refusals(world_of(redis_url, ("k",), ("b",)), outcome, {"k"}) == ["k", "b"]


@pytest.mark.parametrize("outcome", REFUSALS)
def test_in_a_pool_the_other_keys_serve_it(redis_url: str, outcome: Outcome) -> None:
    met = served_after_refusals(world_of(redis_url, ("k1", "k2", "k3")), outcome, {"k1"})
    assert met[-1] in ("k2", "k3")
    assert len(met) <= 2


@pytest.mark.parametrize("outcome", REFUSALS)
def test_a_whole_pool_that_is_limited_leaves_it_to_the_backup(redis_url: str, outcome: Outcome) -> None:
    met = served_after_refusals(world_of(redis_url, ("k1", "k2", "k3"), ("b",)), outcome, {"k1", "k2", "k3"})
    assert met[-1] == "b"
    assert len(met) == len(set(met))


@pytest.mark.parametrize("outcome", REFUSALS)
def test_alone_with_its_key_it_waits_for_the_brake_without_another_call(
    redis_url: str, outcome: Outcome
) -> None:
    world = world_of(redis_url, ("k",))
    assert served_after_refusals(world, outcome, {"k"}) == ["k"]
    turn = world.dispatcher.tick()
    assert turn.waits["m"].reason == "account:a-k:m"
    assert 29.0 < turn.waits["m"].opens_in <= 30.0
    assert turn.next_in > 0.2
    world.gate.release_brake("account:a-k:m")
    assert world.dispatcher.tick().released == 1
