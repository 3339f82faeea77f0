"""The upstream: every fault that the simulator knows, alone and mixed."""

from __future__ import annotations

from typing import Any

from simulator.faults import KINDS
from simulator.faults import Fault as Rule
from tests.chaos.fault import Fault
from tests.chaos.world import ChaosWorld, pause
from tests.stack import wait_until

SECONDS = 4.0
# What is about one key rests that key for a minute (refusals.LONGEST_REST): it strikes the smallest.
OF_A_KEY = frozenset({"401", "402", "403", "404", "429-insufficient-quota"})
# What fails a task at once strikes some.
OF_A_TASK = frozenset({"400", "422", "content-filter", "huge"})
STREAMED = frozenset(name for name, kind in KINDS.items() if kind.stream_only)
SHAPES = {
    "timeout": {"seconds": 4.0},
    "blank": {"seconds": 1.0},
    "slow-keep-alive": {"seconds": 2.0},
    "slow": {"factor": 3.0},
    "drip": {"interval": 0.005},
}


def rule(name: str, rate: float = 1.0) -> Rule:
    """The fault as it strikes here."""
    account = "k3" if name in OF_A_KEY else "*"
    part = 0.1 if name in OF_A_TASK else 1.0
    return Rule(name=name, rate=rate * part, account=account, **SHAPES.get(name, {}))  # type: ignore[arg-type]


def strike(world: ChaosWorld, *rules: Rule) -> None:
    """These faults and no others, for a while; it is over when the last call that they may have struck has ended."""
    world.upstream.set_faults(*rules)
    pause(SECONDS)
    world.upstream.set_faults()
    begun = {call["sequence"] for call in _unended(world, after=0)}
    after = min(begun, default=1) - 1
    wait_until(lambda: not begun & {call["sequence"] for call in _unended(world, after)}, every=0.1)


def _unended(world: ChaosWorld, after: int) -> list[dict[str, Any]]:
    return [call for call in world.upstream.log(after) if call["duration"] is None]


def spoil_streams(world: ChaosWorld, name: str) -> None:
    """Streams that are begun must end with a word, each; what is not streamed goes on."""
    world.upstream.set_faults(rule(name))
    try:
        for caller in world.callers:
            body = {
                "model": "deepseek-flash",
                "stream": True,
                "priority": "high",  # ahead of the load
                "messages": [{"role": "user", "content": name}],
            }
            answer = caller.call("POST", "/v1/chat/completions", body)
            assert answer.status == 200, answer
            assert b'"error"' in answer.body, f"a spoilt stream must end with an error event: {answer.body!r}"
    finally:
        world.upstream.set_faults()


def _alone(name: str) -> Fault:
    text = KINDS[name].summary
    if name in STREAMED:
        return Fault(f"upstream-{name}", text, lambda world: spoil_streams(world, name))
    where = " (one key)" if name in OF_A_KEY else " (one call in ten)" if name in OF_A_TASK else ""
    return Fault(f"upstream-{name}", text + where, lambda world: strike(world, rule(name)))


def _mixed(world: ChaosWorld) -> None:
    strike(world, *(rule(name, 0.03) for name in KINDS if name not in STREAMED))


UPSTREAM_FAULTS = [
    *(_alone(name) for name in KINDS),
    Fault("upstream-mixed", "all of them, each striking 3 % of the calls", _mixed),
]
