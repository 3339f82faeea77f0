"""What a task waits for, as the leader tells it: a pace, a pause, a probe or a breaker by its own name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from app.dispatching.publish_wait_reasons import PublishWaitReasons
from app.pacing.domain.estimated_limit import PaceRules
from app.pacing.domain.rate_controller import RateController
from app.settings.domain.routing import ConfiguredQuota
from app.tasks.domain.attempt import Brake, Outcome, Permit, Settlement
from tests.pacing.pacing_world import GateWorld, one_key

ACCOUNT = "account:a1:m"


class Board:
    """Remembers what was told last."""

    def __init__(self) -> None:
        self.said: Mapping[str, Any] = {}

    def publish(self, said: Mapping[str, Any]) -> None:
        self.said = said


class Told:
    """A leader that tells at each turn."""

    def __init__(self, redis_url: str, controller: Mapping[str, Any], *quotas: ConfiguredQuota) -> None:
        self.world = GateWorld(redis_url, one_key(*quotas)).lead()
        self.board = Board()
        self.world.dispatcher.controller = RateController(self.world.topology, **controller)
        self.world.dispatcher.why = PublishWaitReasons(self.board)
        self.world.dispatcher.tick()

    def move(self, seconds: float) -> None:
        self.world.scripts.client.hincrbyfloat("penstock:gate", "skew", -seconds)
        self.world.report()

    def turn(self) -> Mapping[str, Any]:
        assert self.world.dispatcher.why is not None
        self.world.dispatcher.why._due = 0.0
        self.world.dispatcher.tick()
        model: Mapping[str, Any] = self.board.said["models"]["m"]
        return model

    def settle(self, outcome: Outcome) -> None:
        for task_id in self.world.scripts.client.zrange("penstock:unredeemed", 0, -1):
            permit = self.world.permits.redeem(task_id.decode(), "w1")
            if not isinstance(permit, Permit):  # another call's refusal has braked it
                continue
            refused = outcome in (Outcome.RATE_LIMITED, Outcome.OVERLOADED)
            brakes = (Brake(ACCOUNT, 1.0, f"{outcome} (429)"),) if refused else ()
            self.world.permits.settle(
                [Settlement(permit.task_id, permit.release, outcome, brakes=brakes, seconds=0.1)]
            )


def test_a_pace(redis_url: str) -> None:
    told = Told(redis_url, {"pace": PaceRules(start=5.0), "learning": None})
    told.world.publish(120)
    told.move(1)
    said = told.turn()
    assert said["bound"] == "pace"
    assert "its adaptive rate of 300 requests per minute" in said["words"]
    assert told.turn()["bound"] == "pace"


def test_requests_a_minute(redis_url: str) -> None:
    told = Told(redis_url, {}, ConfiguredQuota(ACCOUNT, rpm=300, concurrency=50))
    told.world.publish(120)
    told.move(3)
    said = told.turn()
    assert said["bound"] == "requests"


def test_a_pause_and_then_the_one_call_after_it(redis_url: str) -> None:
    told = Told(redis_url, {}, ConfiguredQuota(ACCOUNT, rpm=600, concurrency=20))
    told.world.publish(100)
    told.move(1)
    told.turn()
    told.settle(Outcome.RATE_LIMITED)
    assert told.turn()["words"].startswith("the end of a pause in 1 s: rate_limited (429)")
    told.move(1.2)
    said = told.turn()
    assert said["bound"] == "probe"
    assert said["words"].startswith("the answer to a test call after a pause")
    told.settle(Outcome.RATE_LIMITED)
    assert told.turn()["words"].startswith("the end of a pause in 2 s: rate_limited: 2 refusals, no success")


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_a_breaker_while_it_is_open_and_while_one_call_tries(redis_url: str, seconds: float) -> None:
    told = Told(redis_url, {}, ConfiguredQuota(ACCOUNT, rpm=6000, concurrency=20))
    told.world.publish(100)
    for _ in range(4):  # as often as is evidence enough
        told.move(1)
        told.turn()
        told.settle(Outcome.UNAVAILABLE)
    assert told.turn()["bound"] == "breaker"
    told.move(seconds)
    said = told.turn()
    assert said["bound"] == "breaker"
    assert re.match(r"an open circuit breaker: \d+ failures and hardly a success", said["words"])
