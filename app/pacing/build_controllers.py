"""Lay the rules: from what is configured about judgement to what it goes by."""

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
from app.upstreams.domain.attribute_refusal import Figure
from app.upstreams.domain.key_health import HealthRules, Held, KeyHealth


def make_rate_controller(topology: Topology, settings: Settings) -> RateController:
    """The judgement, by what is configured."""
    return RateController(
        topology,
        breaker=breaker_rules(settings),
        pace=pace_rules(settings),
        learning=learning_rules(settings),
        rests=rests(settings),
        chance=random.random,
    )


def make_health(settings: Settings) -> KeyHealth:
    """The health of all keys, by what is configured."""
    told = settings.health
    rules = HealthRules(told.retest, told.longest, told.idle)
    return KeyHealth({held.name: held for held in held_keys(settings)}, rules)


def held_keys(settings: Settings) -> tuple[Held, ...]:
    """Our keys, and what they belong to."""
    return tuple(Held(key.name, key.upstream, key.account or key.name) for key in settings.keys)


def learning_rules(settings: Settings) -> Mapping[Figure, EstimatorConfig] | None:
    """How limits that are not configured are learned; None: not at all."""
    told = settings.learning
    if not told.enabled:
        return None
    return {
        **RULES,
        "calls": replace(RULES["calls"], start=float(told.calls_at_once)),
        "pace": replace(RULES["pace"], start=told.calls_a_second),
    }


def breaker_rules(settings: Settings) -> BreakerRules | None:
    """When breakers open and close; None: there are none."""
    told = settings.breaker
    if not told.enabled:
        return None
    return BreakerRules(
        share=told.share,
        calls=told.calls,
        within=told.within,
        in_a_row=told.in_a_row,
        open_for=told.open_for,
        open_for_waiting=told.open_for_waiting,
        longest=told.longest,
        longest_waiting=told.longest_waiting,
        half_pace_for=told.half_pace_for,
    )


def pace_rules(settings: Settings) -> PaceRules | None:
    """How the pace follows response times; None: it does not."""
    told = settings.pace
    if not told.enabled:
        return None
    return PaceRules(
        slow=told.slow,
        slow_times=told.slow_times,
        fast=told.fast,
        calls=told.calls,
        down=told.down,
        up=told.up,
        start=told.start,
        floor=told.floor,
        ceiling=told.ceiling,
        upstreams=frozenset(told.upstreams),
    )


def rests(settings: Settings) -> BrakeDurations:
    """How long a quota rests after a refusal that does not say."""
    learning = settings.learning
    return BrakeDurations(learning.pause, settings.breaker.pause, learning.longest_pause)
