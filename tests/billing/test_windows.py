"""Off-peak windows: when they are, and that what waits for them starts in time for its deadline all the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.billing.domain.calendar import MARGIN, SLACK, Calendar, Windows, latest_start, must_start
from app.settings import Settings
from app.settings.price_lists import windows_of

MONDAY = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
HOUR = 3600.0
DAYS = frozenset(range(7))
PEAK = Calendar(UTC, ((9 * 60, 12 * 60),), DAYS)
CONGESTED = Calendar(UTC, ((11 * 60, 13 * 60), (20 * 60, 24 * 60)), DAYS)
BOTH = Windows((PEAK, CONGESTED))


def test_off_peak_is_where_no_calendar_is_busy() -> None:
    assert BOTH.quiet_from(MONDAY + 9.5 * HOUR) == MONDAY + 13 * HOUR
    assert BOTH.quiet_from(MONDAY + 13 * HOUR) == MONDAY + 13 * HOUR
    assert BOTH.quiet_from(MONDAY + 23 * HOUR) == MONDAY + 24 * HOUR
    assert Windows(()).quiet_from(MONDAY) == MONDAY


@given(st.floats(0, 7 * 24 * HOUR))
def test_the_first_quiet_instant_is_quiet_and_none_before_it_is(after: float) -> None:
    at = MONDAY + after
    quiet = BOTH.quiet_from(at)
    assert quiet >= at
    assert not BOTH.is_busy(quiet)
    steps = [at + (quiet - at) * part / 50 for part in range(50)]
    assert all(BOTH.is_busy(one) for one in steps if one < quiet)


def test_calendars_that_are_busy_all_day_end_the_search() -> None:
    always = Windows((Calendar(UTC, ((0, 24 * 60),), DAYS),))
    assert always.quiet_from(MONDAY) > MONDAY


tasks = st.lists(st.floats(600, 20_000), min_size=1, max_size=200).map(sorted)


@given(tasks, st.floats(0.2, 5.0), st.integers(0, 100), st.floats(0, 1))
def test_what_waits_starts_before_its_deadline_when_that_is_possible_at_all(
    deadlines: list[float], pace: float, backlog: int, opens: float
) -> None:
    """On a virtual clock: looked at every 5 s, served nearest deadline first, behind what was there before."""
    opens_at = opens * 20_000
    feasible = all(
        latest_start(deadline, backlog + number, pace) > 0 for number, deadline in enumerate(deadlines)
    )
    line, waiting, served, now = float(backlog), list(deadlines), 0, 0.0
    starts: list[float] = []
    while (waiting or served < len(deadlines)) and now < 60_000:
        number = (
            len(waiting) if now >= opens_at else must_start(waiting, len(waiting), round(line), pace, now)
        )
        line += number
        del waiting[:number]
        done = min(line, pace * 5)
        line -= done
        now += 5
        while served < len(deadlines) - len(waiting) and line <= len(deadlines) - len(waiting) - served - 1:
            starts.append(now)
            served += 1
    if feasible:
        assert all(start <= deadline for start, deadline in zip(starts, deadlines, strict=True))


@given(tasks, st.floats(0.5, 5.0), st.floats(0, 20_000))
def test_nothing_starts_early_without_need(deadlines: list[float], pace: float, now: float) -> None:
    number = must_start(deadlines, len(deadlines), 0, pace, now)
    if number:
        ahead = range(number - 1, len(deadlines))
        assert any(deadlines[n] - MARGIN - SLACK * n / pace <= now for n in ahead)
    elif now < deadlines[0]:
        assert all(d - MARGIN - SLACK * n / pace > now for n, d in enumerate(deadlines))


def test_rows_that_were_not_read_count_as_the_last_that_was() -> None:
    assert must_start([10_000.0], 1, 0, 1.0, 0.0) == 0
    assert must_start([10_000.0], 50_000, 0, 1.0, 0.0) == 1


def test_a_model_goes_by_the_calendars_of_its_first_tiers_upstreams() -> None:
    given_ = {
        "upstream": [
            {"name": "ds", "base_url": "https://api.deepseek.com/v1"},
            {"name": "own", "base_url": "https://llm.example/v1", "busy": ["evening"]},
            {"name": "none", "base_url": "https://api.deepseek.com/v1", "busy": []},
        ],
        "key": [{"name": name, "upstream": name, "secret": "env:K"} for name in ("ds", "own", "none")],
        "model": [
            {"name": "first", "tiers": [["ds"], ["own"]]},
            {"name": "both", "tiers": [["ds", "own"]]},
            {"name": "free", "tiers": [["none"], ["ds"]]},
        ],
        "calendar": [{"name": "evening", "zone": "UTC", "hours": ["18:00-22:00"], "weekdays": ["mon"]}],
    }
    windows = windows_of(Settings.model_validate(given_))
    assert set(windows) == {"first", "both"}
    assert not windows["first"].is_busy(MONDAY + 19 * HOUR)
    assert windows["both"].is_busy(MONDAY + 19 * HOUR)
    assert windows["both"].is_busy(MONDAY + 2 * HOUR)  # ten in the morning in Beijing


@pytest.mark.parametrize("wrong", [{"hours": ["9-12"]}, {"weekdays": ["monday"]}, {"holidays": ["soon"]}])
def test_a_calendar_that_cannot_be_read_is_refused_with_its_mend(wrong: dict[str, object]) -> None:
    told = {"name": "c", "zone": "UTC", "hours": ["09:00-12:00"], **wrong}
    with pytest.raises(ValueError, match="hours, weekdays or holidays"):
        Settings.model_validate({"calendar": [told]})
