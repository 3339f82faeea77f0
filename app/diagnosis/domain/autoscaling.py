"""How many worker processes there should be, by the CPU in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """From `high` on (a share of all CPU) `step` more are started; below `low` one less runs, down to `least`."""

    high: float = 0.8
    low: float = 0.3
    step: int = 3
    least: int = 1
    most: int = 20
    cooldown: float = 300.0  # seconds between two changes


def wanted_replicas(rules: ScalingRules, now: int, cpu: float | None, since_change: float) -> int:
    """The number of replicas. An unknown CPU use changes nothing but what lies out of bounds."""
    bounded = max(rules.least, min(rules.most, now))
    if bounded != now or cpu is None or since_change < rules.cooldown:
        return bounded
    if cpu >= rules.high:
        return min(rules.most, now + rules.step)
    return max(rules.least, now - 1) if cpu < rules.low else now
