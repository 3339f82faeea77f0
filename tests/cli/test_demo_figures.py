"""What the demo reckons with."""

from dataclasses import replace

import pytest

from app.cli import presets
from app.cli.demo.figures import DemoFigures, ideal_seconds, limits_of
from app.cli.demo.session import prompts
from app.diagnosis.domain.percentiles import percentile
from app.settings import load_settings

GOOD = DemoFigures(
    tasks=2, succeeded=2, seconds=20, refusals=0, callbacks_due=1, callbacks_verified=1, backlog_peak=1
)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.95, 4), (1.0, 4)])
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def test_no_values_have_no_percentile() -> None:
    assert percentile([], 0.5) == 0.0


def test_the_ideal_is_what_waits_over_the_rate_and_one_latency() -> None:
    assert ideal_seconds(200, [(10, 10), (5, 5)], 1.0) == pytest.approx(185 / 15 + 1)
    assert ideal_seconds(5, [(10, 10)], 1.0) == 1.0
    assert ideal_seconds(5, [], 1.0) is None


def test_the_demo_paces_so_that_one_sees_it_and_ends_within_a_minute() -> None:
    limits = limits_of(load_settings(presets.DEMO, {}), 0.8)
    ideal = ideal_seconds(200, limits, 0.8)
    assert ideal is not None
    assert 12 < ideal < 25


def test_the_prompts_are_200_unlike_ones_in_two_languages() -> None:
    texts = prompts(200)
    assert len(set(texts)) == 200
    assert sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in texts) == 100
    assert prompts(201)[200] == texts[0]


def test_a_good_run_has_no_problems() -> None:
    assert GOOD.problems == []
    assert replace(GOOD, refusals=None).problems == []
    assert replace(GOOD, backlog_peak=0, seconds=3).problems == []


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GOOD, succeeded=1),
        replace(GOOD, callbacks_verified=0),
        replace(GOOD, callbacks_bad=1),
        replace(GOOD, refusals=1),
        replace(GOOD, backlog_peak=0),
    ],
    ids=["task", "callback", "signature", "refusal", "flower"],
)
def test_each_thing_that_goes_wrong_is_said(wrong: DemoFigures) -> None:
    assert len(wrong.problems) == 1
