"""Durations and instants as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.times import parse_duration, parse_instant, to_rfc3339


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        (" 24h ", 86400),
        ("1.5h", 5400),
        ("30d", 2592000),
    ],
)
def test_durations_are_seconds_or_a_number_with_a_unit(written: float | str, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "m", "10 m", "-5", "1w", "ten", "1e9", "٣m", "9" * 30, -1, float("nan"), True]
)
def test_other_durations_are_refused(written: float | str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "at"),
    [
        (1763704862, 1763704862),
        (1763704862.5, 1763704862.5),
        ("2025-11-21T06:01:02Z", 1763704862),
        ("2025-11-21T14:01:02+08:00", 1763704862),
        ("2025-11-21T06:01:02.250Z", 1763704862.25),
    ],
)
def test_instants_are_unix_seconds_or_rfc_3339(written: float | str, at: float) -> None:
    assert parse_instant(written) == at


@pytest.mark.parametrize(
    "written",
    [
        "",
        "tomorrow",
        "2025-11-21T06:01:02",
        "2025-13-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        -1,
        1e18,
        float("inf"),
    ],
)
def test_other_instants_are_refused(written: float | str) -> None:
    with pytest.raises(ValueError, match=r"time|instant"):
        parse_instant(written)


def test_instants_are_written_in_utc_with_milliseconds() -> None:
    assert to_rfc3339(1763704862.0004) == "2025-11-21T06:01:02.000Z"
    assert to_rfc3339(1763704862.25) == "2025-11-21T06:01:02.250Z"
    assert to_rfc3339(None) is None


@given(st.integers(0, 4_000_000_000_000))
def test_what_is_written_reads_back(milliseconds: int) -> None:
    assert round(parse_instant(to_rfc3339(milliseconds / 1000)) * 1000) == milliseconds
