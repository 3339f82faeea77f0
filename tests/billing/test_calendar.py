"""Peak hours: DeepSeek's against the simulated upstream's own, and their edges."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.billing.domain.calendar import Calendar
from app.settings.cost_models import CalendarSettings, calendars
from simulator.prices import is_peak

DEEPSEEK = calendars()["deepseek"]
HOUR = 3600.0
instants = st.floats(
    datetime(2026, 1, 1, tzinfo=UTC).timestamp(), datetime(2027, 12, 31, tzinfo=UTC).timestamp()
).map(lambda at: at // 60 * 60)


def at(text: str) -> float:
    """An instant in Beijing."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone(timedelta(hours=8))).timestamp()


@pytest.mark.parametrize(
    ("when", "peak"),
    [
        ("2026-11-20T08:59", False),
        ("2026-11-20T09:00", True),
        ("2026-11-20T11:59", True),
        ("2026-11-20T12:00", False),
        ("2026-11-20T14:00", True),
        ("2026-11-20T17:59", True),
        ("2026-11-20T18:00", False),
        ("2026-11-21T10:00", False),  # a Saturday
        ("2026-10-01T10:00", False),  # National Day
        ("2026-10-08T10:00", True),
    ],
)
def test_deepseek_has_peak_hours_on_beijing_working_days(when: str, peak: bool) -> None:
    assert DEEPSEEK.is_peak(at(when)) is peak


@given(instants)
def test_the_calendar_agrees_with_the_simulated_upstreams_own(when: float) -> None:
    assert DEEPSEEK.is_peak(when) == is_peak(when)


@given(instants)
def test_off_peak_begins_when_the_peak_is_over_and_not_before(when: float) -> None:
    begins = DEEPSEEK.off_peak_from(when)
    assert not DEEPSEEK.is_peak(begins)
    assert (begins == when) == (not DEEPSEEK.is_peak(when))
    assert all(DEEPSEEK.is_peak(when + minute * 60) for minute in range(int((begins - when) / 60)))


def test_off_peak_begins_at_once_in_a_long_holiday() -> None:
    assert DEEPSEEK.off_peak_from(at("2026-10-03T10:00")) == at("2026-10-03T10:00")


def test_without_peak_hours_it_is_always_off_peak() -> None:
    never = Calendar(UTC, ())
    assert (never.is_peak(0), never.off_peak_from(5)) == (False, 5)


def test_hours_go_by_the_clock_on_the_wall_in_summer_and_winter() -> None:
    berlin = Calendar(ZoneInfo("Europe/Berlin"), ((9 * 60, 10 * 60),), frozenset(range(7)))
    assert berlin.is_peak(datetime(2026, 7, 1, 7, 30, tzinfo=UTC).timestamp())
    assert berlin.is_peak(datetime(2026, 12, 1, 8, 30, tzinfo=UTC).timestamp())
    assert not berlin.is_peak(datetime(2026, 12, 1, 7, 30, tzinfo=UTC).timestamp())


@pytest.mark.parametrize("hours", ["9-12", "12:00-09:00", "09:00-25:00", "09:00-09:00"])
def test_hours_that_cannot_be_meant_are_refused(hours: str) -> None:
    with pytest.raises(ValueError, match=r"period|end after"):
        CalendarSettings(zone="UTC", hours=(hours,)).calendar()


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        CalendarSettings(zone="Asia/Nowhere", hours=())


def test_holidays_are_days_or_ranges_of_them() -> None:
    settings = CalendarSettings(zone="UTC", hours=(), holidays=("2026-01-01", "2026-02-01..2026-02-03"))
    assert settings.calendar().holidays == {date(2026, 1, 1), *(date(2026, 2, day) for day in (1, 2, 3))}
