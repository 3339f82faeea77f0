"""Figures as people read them."""

import pytest

from app.dashboard.rendering import about, duration, money, number, pace, percent, short


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "unknown"),
        (0, "0 ms"),
        (0.0421, "42 ms"),
        (0.9999, "1.0 s"),
        (3.21, "3.2 s"),
        (42.4, "42 s"),
        (59.97, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (80, "80 s"), (3420, "57 min"), (10_800, "3 h"), (200_000, "2 d")]
)
def test_a_rough_duration_has_one(seconds: float, said: str) -> None:
    assert about(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (0.34, "0.3"), (12.5, "12.5"), (140.2, "140"), (3.0, "3")]
)
def test_a_pace_is_exact_where_it_is_small(value: float, said: str) -> None:
    assert pace(value) == said


def test_the_unknown_is_unknown_and_never_nothing() -> None:
    assert number(None) == "unknown"
    assert money(10**12, "") == "unknown"
    assert money(10**12, "?") == "unknown"
    assert money(1_500_000, "USD") == "0.000002 USD"
    assert money(1234 * 10**12, "CNY") == "1,234.00 CNY"


def test_ids_are_shortened_to_what_tells_them_apart() -> None:
    assert short("task_01m7yhbzzz4r6m63tafrxx0wfx") == "task_…frxx0wfx"
    assert short("odd") == "odd"
    assert percent(0.034) == "3.4"
