"""One learned figure: how it moves, whatever happens to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain import estimated_limit
from app.pacing.domain.estimated_limit import (
    CALLS_A_SECOND,
    CALLS_AT_ONCE,
    FREE,
    EstimatedLimit,
    EstimatorConfig,
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grow", "refuse", "correct", "ease", "restart", "disprove"]), st.floats(0.1, 500)
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([CALLS_AT_ONCE, CALLS_A_SECOND]))
def test_a_figure_never_falls_below_its_floor_and_never_more_than_doubles(
    steps: list[tuple[str, float]], rules: EstimatorConfig
) -> None:
    figure, now = EstimatedLimit(rules.start), 0.0
    for what, amount in steps:
        now += 1
        before = figure.level
        match what:
            case "grow":
                figure = estimated_limit.grown(figure, rules, now)
                assert before <= figure.level <= max(2 * before, before + rules.grain)
            case "refuse":
                figure = estimated_limit.refused(figure, rules, amount, now)
                assert figure.level <= before
            case "correct":
                figure = estimated_limit.tighten(figure, rules, amount)
                assert figure.level <= before
            case "ease":
                figure = estimated_limit.decrease(figure, rules, amount)
                assert figure.level <= max(before, rules.floor)
            case "restart":
                figure = estimated_limit.restarted(figure, rules)
                assert figure.level <= before
            case "disprove":
                figure = estimated_limit.forget(figure)
        assert figure.level >= rules.floor or figure.level == before


def test_a_refusal_far_below_what_was_known_never_raises_the_level() -> None:
    """Where the limit is taken to lie between the two, nine tenths of that are more than what was just refused."""
    figure = EstimatedLimit(level=3.4, known=4.25)
    assert estimated_limit.refused(figure, CALLS_AT_ONCE, 3.4, 0.0).level <= 3.4


def rounds(figure: EstimatedLimit, rules: EstimatorConfig, count: int, now: float = 0.0) -> list[float]:
    levels = []
    for number in range(count):
        figure = estimated_limit.grown(figure, rules, now + number)
        levels.append(figure.level)
    return levels


def test_it_doubles_until_the_first_refusal() -> None:
    assert rounds(EstimatedLimit(20), CALLS_AT_ONCE, 4) == [40, 80, 160, 320]


def test_after_a_refusal_it_returns_below_the_limit_rests_and_then_tries_a_little_more() -> None:
    figure = estimated_limit.refused(EstimatedLimit(160), CALLS_AT_ONCE, 100, 0.0)
    figure = estimated_limit.refused(replace(figure, level=101), CALLS_AT_ONCE, 100, 10.0)
    assert rounds(figure, CALLS_AT_ONCE, 8, now=10.0)[:6] == [100] * 6
    assert rounds(figure, CALLS_AT_ONCE, 10, now=16.0)[:4] == pytest.approx(
        [100, 102, 106.08, 114.57], abs=0.1
    )


def test_a_limit_found_where_it_was_is_believed_for_longer_and_longer() -> None:
    figure, rests = estimated_limit.refused(EstimatedLimit(200), CALLS_A_SECOND, 100, 0.0), []
    for _ in range(4):
        figure = estimated_limit.refused(replace(figure, level=120), CALLS_A_SECOND, 99, 0.0)
        rests.append(figure.rest)
    assert rests == [6, 24, 60, 60]


def test_refused_at_rest_it_keeps_a_wider_margin() -> None:
    figure = estimated_limit.refused(EstimatedLimit(200), CALLS_A_SECOND, 100, 0.0)
    first = estimated_limit.resting_level(figure, CALLS_A_SECOND)
    figure = estimated_limit.refused(
        estimated_limit.grown(figure, CALLS_A_SECOND, 0.5), CALLS_A_SECOND, 98.5, 1.0
    )
    assert estimated_limit.resting_level(figure, CALLS_A_SECOND) < 0.98 * first


def test_calls_at_once_rest_on_whole_numbers() -> None:
    figure = estimated_limit.refused(EstimatedLimit(40), CALLS_AT_ONCE, 20, 0.0)
    assert estimated_limit.resting_level(figure, CALLS_AT_ONCE) == 20


def test_what_is_free_stays_free_until_it_is_refused() -> None:
    free = EstimatedLimit(FREE)
    assert (
        estimated_limit.grown(free, CALLS_AT_ONCE, 0.0)
        == estimated_limit.restarted(free, CALLS_AT_ONCE)
        == free
    )
    assert estimated_limit.refused(free, CALLS_AT_ONCE, 30, 0.0).level == 27
    assert estimated_limit.decrease(free, CALLS_AT_ONCE, 40).level == 34
