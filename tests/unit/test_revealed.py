"""What headers say of limits, and the pace that follows response times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.response_pace import PaceRules, ResponsePace
from app.domain.revealed import NOTHING, Revealed, duration, revealed


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, NOTHING),
        ({"x-ratelimit-limit-requests": "600"}, Revealed(rpm=600)),
        ({"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "90000"}, Revealed(600, 90000)),
        ({"ratelimit-policy": '"default";q=100;w=30', "ratelimit": '"default";r=7;t=4'}, Revealed(rpm=200)),
        (
            {"ratelimit-policy": '"default";q=100;w=60', "ratelimit": '"default";r=0;t=4'},
            Revealed(100, None, 0.6),
        ),
        ({"x-ratelimit-limit-requests": "nonsense"}, NOTHING),
        ({"x-ratelimit-remaining-requests": "0"}, NOTHING),
    ],
)
def test_rate_limit_headers_are_read(headers: dict[str, str], said: Revealed) -> None:
    assert revealed(headers) == said


def test_an_empty_bucket_is_waited_for_until_its_next_unit_and_no_longer_than_it_says() -> None:
    head = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    assert revealed({**head, "x-ratelimit-reset-requests": "1m0s"}).empty_for == 1.0
    assert revealed({**head, "x-ratelimit-reset-requests": "200ms"}).empty_for == 0.2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("250ms", 0.25),
        ("1h2m3s", 3723.0),
        ("59.9", 59.9),
        ("", None),
        ("soon", None),
    ],
)
def test_durations_in_headers(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


@given(
    st.dictionaries(
        st.sampled_from(["ratelimit", "ratelimit-policy", "x-ratelimit-limit-requests"]), st.text()
    )
)
def test_no_header_is_too_strange(headers: dict[str, str]) -> None:
    said = revealed(headers)
    assert said.empty_for >= 0


def after(seconds: list[float], rules: PaceRules | None = None) -> float:
    pace = ResponsePace(rules or PaceRules())
    for one in seconds:
        pace.settled(one)
    return pace.level


@pytest.mark.parametrize(
    ("seconds", "level"),
    [
        ([3.0] * 19, 5.0),
        ([3.0] * 20, 4.0),
        ([0.2] * 20, 6.25),
        ([1.0] * 20, 5.0),
        ([9.0] * 400, 1.0),
        ([0.1] * 400, 20.0),
    ],
)
def test_the_pace_follows_the_last_twenty_response_times_between_floor_and_ceiling(
    seconds: list[float], level: float
) -> None:
    assert after(seconds) == pytest.approx(level)


def test_slow_may_be_a_multiple_of_the_models_own_median() -> None:
    rules = PaceRules(slow_times=2.0)
    assert after([4.0] * 20 + [6.0] * 20, rules) == pytest.approx(4.0)
    assert after([4.0] * 20 + [6.0] * 20 + [13.0] * 20, rules) == pytest.approx(3.2)
