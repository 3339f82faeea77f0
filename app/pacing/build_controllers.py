"""Build the rate controller and key health from the settings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from app.pacing.domain.brake import BrakeDurations
from app.pacing.domain.breaker import BreakerRules
from app.pacing.domain.estimated_limit import EstimatorConfig, PaceRules
from app.pacing.domain.limit_estimator import RULES
from app.pacing.domain.rate_controller import RateController
from app.settings import Settings
from app.settings.domain.routing import Topology
from app.upstreams.domain.key_health import HealthRules, Held, KeyHealth
from app.upstreams.domain.refusals import Figure


def make_rate_controller(topology: Topology, settings: Settings) -> RateController:
    """The rate controller, as configured."""
    return RateController(
        topology,
        breaker=breaker_rules(settings),
        pace=pace_rules(settings),
        learning=learning_rules(settings),
        rests=rests(settings),
        chance=random.random,
    )


def make_health(settings: Settings) -> KeyHealth:
    """The health of all keys, as configured."""
    section = settings.health
    rules = HealthRules(section.retest, section.longest, section.idle)
    return KeyHealth({held.name: held for held in held_keys(settings)}, rules)


def held_keys(settings: Settings) -> tuple[Held, ...]:
    """The configured keys with their upstreams and accounts."""
    return tuple(Held(key.name, key.upstream, key.account or key.name) for key in settings.keys)


def learning_rules(settings: Settings) -> Mapping[Figure, EstimatorConfig] | None:
    """How limits that are not configured are estimated; None: they are not."""
    section = settings.learning
    if not section.enabled:
        return None
    return {
        **RULES,
        "calls": replace(RULES["calls"], start=float(section.calls_at_once)),
        "pace": replace(RULES["pace"], start=section.calls_a_second),
    }


def breaker_rules(settings: Settings) -> BreakerRules | None:
    """When breakers open and close; None if disabled."""
    section = settings.breaker
    if not section.enabled:
        return None
    return BreakerRules(
        share=section.share,
        calls=section.calls,
        within=section.within,
        in_a_row=section.in_a_row,
        open_for=section.open_for,
        open_for_waiting=section.open_for_waiting,
        longest=section.longest,
        longest_waiting=section.longest_waiting,
        half_pace_for=section.half_pace_for,
    )


def pace_rules(settings: Settings) -> PaceRules | None:
    """How the rate follows response times; None if it does not."""
    section = settings.pace
    if not section.enabled:
        return None
    return PaceRules(
        slow=section.slow,
        slow_times=section.slow_times,
        fast=section.fast,
        calls=section.calls,
        down=section.down,
        up=section.up,
        start=section.start,
        floor=section.floor,
        ceiling=section.ceiling,
        upstreams=frozenset(section.upstreams),
    )


def rests(settings: Settings) -> BrakeDurations:
    """How long a quota is braked after a refusal without Retry-After."""
    learning = settings.learning
    return BrakeDurations(learning.pause, settings.breaker.pause, learning.longest_pause)
