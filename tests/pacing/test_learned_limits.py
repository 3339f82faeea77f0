"""What a estimator reaches against an upstream that tells nothing, on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.pacing.domain.breaker import CircuitBreaker
from app.pacing.domain.estimated_limit import EstimatedLimit
from app.pacing.domain.limit_estimator import from_facts, new_estimator, to_facts
from app.pacing.domain.plan import Release
from app.pacing.domain.rate_controller import CallReport, RateController
from app.settings.domain.routing import Bucket, QuotaLimits, QuotaState, Route, Topology
from app.tasks.domain.attempt import Outcome
from app.upstreams.domain.refusals import Figure
from simulator.latency import Latency
from tests.pacing.virtual_upstream import SECOND, World

TWO_SECONDS = Latency("lognormal", 2.0, 0.4)
ALIKE = Latency("constant", 1.0)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "no word"])
@pytest.mark.parametrize(
    ("cap", "rate", "latency"),
    [
        (20, None, SECOND),
        (20, None, ALIKE),
        (60, None, TWO_SECONDS),
        (150, None, SECOND),
        (None, 10, SECOND),
        (None, 40, ALIKE),
        (None, 100, TWO_SECONDS),
        (40, 20, SECOND),
        (30, 100, SECOND),
    ],
)
def test_hidden_limits_are_used_to_nine_tenths_ten_seconds_after_a_cold_start(
    cap: int | None, rate: float | None, latency: Latency, named: bool, retry_after: bool
) -> None:
    world = World(cap, rate, latency, named, retry_after).run(70)
    assert world.used(10, 70) >= 0.9
    assert world.refusals(10, 70) <= 0.02


@settings(max_examples=25, deadline=None)
@given(
    cap=st.none() | st.integers(20, 120),
    rate=st.none() | st.floats(10, 80),
    latency=st.sampled_from([SECOND, TWO_SECONDS, ALIKE, Latency("uniform", 0.8, low=0.6, high=1.0)]),
    named=st.booleans(),
    retry_after=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_whatever_the_hidden_limits_few_calls_are_refused_and_little_is_left_unused(
    cap: int | None, rate: float | None, latency: Latency, named: bool, retry_after: bool, seed: int
) -> None:
    if cap is None and rate is None:
        cap = 50
    world = World(cap, rate, latency, named, retry_after, seed=seed).run(70)
    assert world.used(10, 70) >= 0.75
    assert world.refusals(10, 70) <= 0.04


@pytest.mark.parametrize(("cap", "rate"), [(20, None), (50, None), (None, 20), (100, 60)])
def test_a_storm_of_a_minute_wastes_two_in_a_hundred_calls_and_is_forgotten_in_ten_seconds(
    cap: int | None, rate: float | None
) -> None:
    world = World(cap, rate, storm=(40, 100), breaker=CircuitBreaker(), seed=3).run(160)
    assert len(world.wasted) <= 0.02 * (len(world.wasted) + len(world.admitted))
    assert world.used(110, 160) >= 0.9
    assert world.used(108, 114) >= 0.8


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("cap", [20, 60, 150])
def test_short_calls_fill_a_hidden_cap_as_far_as_their_way_out_and_back_lets_them(
    cap: int, named: bool
) -> None:
    """A call of 0.2 s is counted here for about 0.235 s: 85 % of the upstream's own capacity is all there is."""
    world = World(cap, None, Latency("constant", 0.2), named).run(70)
    assert world.used(10, 70) >= 0.85 * 0.9
    assert world.refusals(10, 70) <= 0.02


def test_long_calls_fill_up_before_the_first_one_has_ended() -> None:
    world = World(400, None, Latency("constant", 30.0)).run(25)
    assert world.flight >= 300
    assert world.refusals(0, 25) <= 0.1


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "no word"])
def test_long_calls_meet_few_refusals(retry_after: bool) -> None:
    world = World(150, None, Latency("lognormal", 15.0, 0.3), named=False, retry_after=retry_after).run(70)
    assert world.used(10, 70) >= 0.9
    assert world.refusals(10, 70) <= 0.03


def test_a_limit_that_is_lowered_is_found_again() -> None:
    world = World(cap=100).run(40).change(40).run(100)
    assert world.used(60, 100) >= 0.85
    assert world.refusals(60, 100) <= 0.03


def test_a_limit_that_is_raised_is_found_again() -> None:
    world = World(cap=25).run(40).change(60).run(160)
    assert world.used(130, 160) >= 0.9


def test_what_was_learned_is_taken_up_again_without_a_slow_start() -> None:
    taught = World(cap=80).run(40)
    again = World(cap=80, estimator=from_facts(to_facts(taught.estimator), new_estimator()), seed=5).run(20)
    assert again.used(4, 20) >= 0.85
    assert again.refusals(0, 20) <= 0.02


def test_a_told_figure_is_not_learned_until_it_is_refused() -> None:
    estimator = new_estimator(("calls", "pace"))
    assert (estimator.cap, estimator.requests, estimator.tokens) == (None, None, None)
    World(cap=30, estimator=estimator).run(10)
    assert estimator.cap is not None
    assert 25 <= estimator.cap <= 32


TOLD: tuple[Figure, ...] = ("calls", "pace")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rate", [2.5, 3.2, 10.0])
def test_refusals_of_whatever_is_sent_leave_what_was_told_in_force(rate: float, seed: int) -> None:
    """Seven times in 100 s everything is refused for 4 s; between, all that was told is used again within 5 s."""
    told = QuotaLimits(Bucket(2.0, 0.97 * rate), cap=60)
    storms = [(20.0 + 14 * n, 24.0 + 14 * n) for n in range(7)]
    world = World(
        60, rate, SECOND, False, False, refusing=storms, told=told, estimator=new_estimator(TOLD), seed=seed
    )
    world.run(140)
    learned = {name: figure.level for name, figure in world.estimator.figures.items() if not figure.is_free}
    assert learned == {}
    assert all(world.used(until + 5, until + 10) >= 0.85 for _, until in storms)


@pytest.mark.parametrize("seconds", [1.0, 15.0])
@pytest.mark.parametrize(("cap", "rate"), [(20, None), (None, 10.0)])
def test_told_figures_that_are_wrong_are_learned(cap: int | None, rate: float | None, seconds: float) -> None:
    told = QuotaLimits(Bucket(20.0, 40.0), cap=400)
    latency = Latency("lognormal", seconds, 0.4)
    world = World(cap, rate, latency, False, False, told=told, estimator=new_estimator(TOLD)).run(130)
    assert world.used(40, 130) >= 0.85
    assert world.refusals(40, 130) <= 0.05


@pytest.mark.parametrize("pace", [2.0, 10.0, 15.0, 40.0])
def test_a_pace_is_kept_by_a_dispatcher_that_is_a_little_late(pace: float) -> None:
    estimator = new_estimator()
    estimator.figures["pace"] = EstimatedLimit(pace)
    bucket, level, calls = estimator.requests, 0.0, 0
    assert bucket is not None
    for _ in range(500):  # looks, 40 ms apart
        level = bucket.filled(level, 0.04)
        calls += int(level)
        level -= int(level)
    assert calls >= 0.97 * 500 * 0.04 * pace


def test_where_an_estimate_starts_is_not_called_learned() -> None:
    route = Route("k", "u", "a", "m")
    controller = RateController(Topology({"m": ((route,),)}), breaker=None)
    controller.look(100.0, {name: QuotaState() for name in route.quotas}, ["m"])
    assert controller.learned() == {}
    name = "account:a:m"
    assert controller.limits(100.0, {})[name].requests is not None  # what is assumed holds all the same
    refused = CallReport(Outcome.RATE_LIMITED, "k", "u", "a", "m", 100.0, 101.0, 0.5, 1.0, braked=(name,))
    controller.released([Release("t", "q", 3, "m", "c", route, 1.0, ())], {}, 100.0)
    controller.settled([refused])
    assert controller.learned()[name] != QuotaLimits()
