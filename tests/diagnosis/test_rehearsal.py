"""A load on the virtual clock: what drains it, what holds it up, what one more key or account changes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.billing.domain.pricing import Price, PriceBook, Rates
from app.diagnosis.domain.simulation import (
    MOST_LISTS,
    ClientProfile,
    Load,
    Rehearsed,
    Scenario,
    merge_small,
    rehearse,
)
from app.diagnosis.simulate_load import (
    CallRow,
    LoadForecast,
    Question,
    RunningService,
    WaitingRows,
    limits_of,
    live_loads,
    only_keys,
    rehearse_load,
    usage_of,
)
from app.settings.domain.routing import ConfiguredQuota, Route, Topology, account_quota
from app.tasks.domain.attempt import TokenUsage

USAGE = TokenUsage(1000, 500)
STEADY = ClientProfile(lambda _: 1.0, 1.0)
BOOK = PriceBook.of([("u", "m", Price(0.0, "USD", Rates(150_000, 150_000, 600_000, 600_000)))])


def accounts(count: int, *, keys: int = 1, **figures: float) -> Topology:
    """So many accounts with limits alike, each with so many keys, in one tier."""
    routes = tuple(Route(f"k{a}-{n}", "u", f"a{a}", "m") for a in range(count) for n in range(keys))
    quotas = [ConfiguredQuota(account_quota(f"a{a}", "m"), **figures) for a in range(count)]  # type: ignore[arg-type]
    return Topology({"m": (routes,)}, {quota.id: quota for quota in quotas})


def played(topology: Topology, tasks: int, habit: ClientProfile = STEADY, **more: object) -> LoadForecast:
    loads = more.pop("loads", None) or [Load("m", "c", tasks, USAGE, 1500.0)]
    return rehearse_load(Question(topology, loads, habit, BOOK, **more))  # type: ignore[arg-type]


def test_a_rate_drains_in_tasks_over_rate() -> None:
    result = played(accounts(2, rpm=600), 2000).variants[0].result
    assert result.seconds == pytest.approx(2000 / 20 + 1, rel=0.04)
    assert (result.done, result.calls, result.refused, result.expired, result.stranded) == (
        2000,
        2000,
        0,
        0,
        0,
    )


@pytest.mark.parametrize(
    "habit", [STEADY, ClientProfile(lambda c: c.lognormvariate(0.568, 0.5), 2.0)], ids=["1 s", "2 s"]
)
def test_calls_at_once_drain_in_tasks_times_seconds_over_cap(habit: ClientProfile) -> None:
    result = played(accounts(1, concurrency=40), 3000, habit).variants[0].result
    assert result.seconds == pytest.approx(3000 * habit.mean_seconds / 40, rel=0.06)


def test_tokens_drain_at_their_rate_and_what_was_not_used_comes_back() -> None:
    reserved = [Load("m", "c", 1000, USAGE, 3000.0)]
    result = played(accounts(1, tpm=900_000), 0, loads=reserved).variants[0].result
    assert result.seconds == pytest.approx(1000 * 1500 / 15_000, rel=0.06)


def test_a_slow_quota_loses_nothing_by_being_looked_at_now_and_then() -> None:
    result = played(accounts(1, rpm=30), 60).variants[0].result
    assert result.seconds == pytest.approx(60 * 2 + 1, rel=0.05)


def test_one_more_account_changes_what_one_more_key_of_the_same_does_not() -> None:
    as_it_is, key, account = played(accounts(2, rpm=600), 2000).variants
    assert key.result.seconds == pytest.approx(as_it_is.result.seconds, rel=0.01)
    assert account.result.seconds == pytest.approx(as_it_is.result.seconds * 2 / 3, rel=0.03)
    assert key.name.startswith("one more key of a")
    assert len(account.result.by_key) == 3


def test_one_more_key_counts_where_limits_are_the_keys() -> None:
    route = Route("k", "u", "a", "m")
    topology = Topology({"m": ((route,),)}, {"key:k:m": ConfiguredQuota("key:k:m", rpm=600)})
    as_it_is, key, _ = played(topology, 1000).variants
    assert key.result.seconds == pytest.approx(as_it_is.result.seconds / 2, rel=0.05)


def test_costs_are_exact_and_an_unknown_price_is_unknown() -> None:
    result = played(accounts(1, rpm=6000), 100).variants[0].result
    assert result.costs == {"USD": 100 * (150_000 * 1000 + 600_000 * 500)}
    unknown = rehearse_load(
        Question(accounts(1, rpm=6000), [Load("m", "c", 9, USAGE, 1.0)], STEADY, PriceBook())
    )
    assert (unknown.variants[0].result.costs, unknown.variants[0].result.unpriced) == ({}, 9)


def test_refused_calls_are_made_again_and_brake_their_account() -> None:
    calm = played(accounts(1, concurrency=20), 500).variants[0].result
    stormy = (
        played(accounts(1, concurrency=20), 500, ClientProfile(lambda _: 1.0, 1.0, 0.1, 2.0))
        .variants[0]
        .result
    )
    assert stormy.done == 500
    assert stormy.calls == 500 + stormy.refused
    assert 20 <= stormy.refused <= 100
    assert stormy.seconds > 1.3 * calm.seconds


def test_what_cannot_start_before_its_deadline_expires() -> None:
    late = [Load("m", "c", 1000, USAGE, 1500.0, expires_in=30.0)]
    result = played(accounts(1, rpm=600), 0, loads=late).variants[0].result
    assert result.done + result.expired == 1000
    assert result.done == pytest.approx(300, rel=0.1)


def test_what_nothing_can_start_is_told_and_not_waited_for() -> None:
    result = played(accounts(1, concurrency=5), 10, slots=0).variants[0].result
    assert (result.stranded, result.done) == (10, 0)


def test_what_holds_work_up_is_told_in_seconds() -> None:
    result = played(accounts(1, rpm=600, concurrency=500), 600).variants[0].result
    assert max(result.waits, key=lambda name: result.waits[name]) == "account:a0:m"


def test_limits_that_nobody_told_are_the_learned_ones_else_assumed_and_named() -> None:
    topology = Topology({"m": ((Route("k1", "u", "a1", "m"), Route("k2", "u", "a2", "m")),)})
    facts = {"account:a1:m": {"figures": {"calls": {"level": 60.0, "known": 60.0, "step": 0.25}}}}
    limits, assumed = limits_of(topology, facts)
    assert limits["account:a1:m"].cap == 60
    assert (limits["account:a2:m"].cap, assumed) == (20, ["a2: m"])


def test_the_running_service_gives_load_use_and_seconds() -> None:
    calls = [
        CallRow("k0-0", "m", "succeeded", 0.5, 100, 50, 10),
        CallRow("k0-0", "m", "rate_limited", 0.1, None, None, None),
    ]
    live = RunningService([WaitingRows("m", "c", 0, 7, 150.0), WaitingRows("gone", "c", 3, 9, 1.0)], calls)
    topology = accounts(1, rpm=600)
    assert usage_of(calls) == TokenUsage(100, 50, 10)
    loads = live_loads(live, TokenUsage(100, 50), topology)
    assert [(load.model, load.tasks, load.step) for load in loads] == [("m", 7, 0)]
    result = played(topology, 0, loads=loads, live=live).variants[0].result
    assert (result.done, result.calls) == (7, 7 + result.refused)


def test_keys_can_be_left_out() -> None:
    assert only_keys(accounts(3), ["k1-0"]).keys == ("k1-0",)


@settings(max_examples=10, deadline=None)
@given(
    rpm=st.none() | st.integers(60, 1200),
    concurrency=st.none() | st.integers(1, 60),
    count=st.integers(1, 3),
    seconds=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_nothing_is_lost_and_no_limit_is_beaten(
    rpm: int | None, concurrency: int | None, count: int, seconds: float, seed: int
) -> None:
    if rpm is None and concurrency is None:
        concurrency = 10
    topology = accounts(count, **{k: v for k, v in (("rpm", rpm), ("concurrency", concurrency)) if v})
    chance = Random(seed)
    habit = ClientProfile(lambda _: chance.uniform(0.5, 1.5) * seconds, seconds)
    result = played(topology, 300, habit).variants[0].result
    assert (result.done, result.stranded, result.expired) == (300, 0, 0)
    fastest = max(
        300 * 60 / (rpm * count) - 1 if rpm else 0.0,
        300 * seconds / (concurrency * count) * 0.85 - seconds if concurrency else 0.0,
    )
    assert result.seconds >= fastest


# -- large loads, arrivals, waits


def by_parts(topology: Topology, loads: list[Load], most: int, habit: ClientProfile = STEADY) -> Rehearsed:
    limits, _ = limits_of(topology, {})
    stage = Scenario(topology, limits, lambda _: habit, lambda *_: (7, "USD"))
    return rehearse(stage, loads, Random(3), most=most)


@pytest.mark.parametrize(
    ("figures", "habit"),
    [
        ({"rpm": 600}, STEADY),
        ({"concurrency": 20}, ClientProfile(lambda c: c.lognormvariate(0.568, 0.5), 2.0)),
        ({"tpm": 900_000}, STEADY),
        ({"rpm": 600, "concurrency": 30}, ClientProfile(lambda c: c.lognormvariate(0.568, 0.5), 2.0, 0.1)),
    ],
)
def test_a_part_of_a_large_load_stands_for_all_of_it(figures: dict[str, float], habit: ClientProfile) -> None:
    loads = [
        Load("m", client, tasks, USAGE, 1500.0) for client, tasks in (("a", 3000), ("b", 800), ("c", 200))
    ]
    whole = by_parts(accounts(2, **figures), loads, 10_000, habit)
    part = by_parts(accounts(2, **figures), loads, 1_000, habit)
    assert (whole.played, part.played) == (4000, 1000)
    assert part.done == whole.done == 4000
    assert part.seconds == pytest.approx(whole.seconds, rel=0.03)
    assert part.calls == pytest.approx(whole.calls, rel=0.03)
    assert part.costs["USD"] == pytest.approx(whole.costs["USD"], rel=0.001)
    assert part.waited.p50 == pytest.approx(whole.waited.p50, rel=0.05)
    assert part.responded.p99 == pytest.approx(whole.responded.p99, rel=0.05)


def test_two_hundred_thousand_tasks_of_five_hundred_clients_are_played_as_a_few_thousand() -> None:
    loads = [Load("m", f"c{n}", 400, USAGE, 1500.0, step=3 * (n % 3)) for n in range(500)]
    told: list[float] = []
    limits, _ = limits_of(accounts(2, rpm=6000), {})
    stage = Scenario(accounts(2, rpm=6000), limits, lambda _: STEADY, lambda *_: None)
    result = rehearse(stage, loads, Random(3), told.append)
    assert result.done == 200_000
    assert result.played < 6_000
    assert result.seconds == pytest.approx(1000, rel=0.03)
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1.0


def test_a_part_expires_in_the_same_share() -> None:
    loads = [Load("m", "c", 4000, USAGE, 1500.0, expires_in=200.0)]
    part = by_parts(accounts(1, rpm=600), loads, 500)
    assert part.done == pytest.approx(2000, rel=0.05)  # ten a second for 200 s
    assert part.done + part.expired == 4000


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from("mn"), st.sampled_from((0, 3, 6))), max_size=200)
)
def test_small_lists_are_merged_and_no_task_is_lost(rows: list[tuple[int, str, int]]) -> None:
    loads = [
        Load(model, f"c{n}", tasks, USAGE, 10.0 + n, step) for n, (tasks, model, step) in enumerate(rows)
    ]
    merged = merge_small(loads)
    assert len(merged) <= MOST_LISTS + 6
    for model in "mn":
        for step in (0, 3, 6):
            mine = [
                [one for one in some if (one.model, one.step) == (model, step)] for some in (loads, merged)
            ]
            tasks, after = (sum(one.tasks for one in some) for some in mine)
            assert tasks == after
            tokens, kept = (sum(one.tasks * one.estimate for one in some) for some in mine)
            assert kept == pytest.approx(tokens)


@pytest.mark.parametrize(("rate", "waits"), [(4.0, False), (40.0, True)])
def test_tasks_that_arrive_wait_only_where_they_come_faster_than_they_are_done(
    rate: float, waits: bool
) -> None:
    loads = [Load("m", "c", 2000, USAGE, 1500.0, rate=rate)]
    result = by_parts(accounts(1, concurrency=10), loads, 10_000)  # ten a second
    assert result.done == 2000
    expected = 200 if waits else 2000 / rate
    assert result.seconds == pytest.approx(expected, rel=0.1)
    assert (result.waited.p50 > 10) == waits
    assert result.responded.p50 == pytest.approx(result.waited.p50 + 1.0, rel=0.15)


@pytest.mark.parametrize(("rate", "most"), [(4.0, 500), (40.0, 500)])
def test_a_part_of_what_arrives_waits_as_all_of_it_does(rate: float, most: int) -> None:
    loads = [Load("m", "c", 4000, USAGE, 1500.0, rate=rate)]
    whole, part = (by_parts(accounts(1, concurrency=10), loads, each) for each in (10_000, most))
    assert part.seconds == pytest.approx(whole.seconds, rel=0.1)
    assert part.waited.p50 == pytest.approx(whole.waited.p50, rel=0.15, abs=0.2)


@pytest.mark.parametrize(
    ("figures", "figure"),
    [
        ({"rpm": 60, "concurrency": 50}, "rpm"),
        ({"rpm": 6000, "concurrency": 2}, "concurrency"),
        ({"tpm": 15_000, "concurrency": 500}, "tpm"),
    ],
)
def test_the_limit_that_held_it_back_is_told_with_its_figure(figures: dict[str, float], figure: str) -> None:
    result = by_parts(accounts(1, **figures), [Load("m", "c", 200, USAGE, 1500.0)], 10_000)
    assert max(result.figures, key=lambda name: result.figures[name]) == ("account:a0:m", figure)
