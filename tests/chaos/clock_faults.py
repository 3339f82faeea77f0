"""The wall clock of everything of ours and of Redis, stepped (libfaketime)."""

from __future__ import annotations

from tests.chaos import fake_time
from tests.chaos.fault import Fault
from tests.chaos.world import ChaosWorld, pause

HOUR = 3600


def _step(world: ChaosWorld, seconds: int) -> None:
    assert world.clock is not None
    world.clock.step(seconds)
    pause(fake_time.READ_AGAIN_SECONDS + 1.0)  # until every process has seen it


CLOCK_FAULTS = [
    Fault("clock-forward", "an hour forward, at once", lambda world: _step(world, HOUR)),
    Fault("clock-back", "an hour back, at once", lambda world: _step(world, 0)),
]
