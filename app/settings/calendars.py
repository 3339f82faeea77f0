"""Calendars of peak hours, from app/settings/calendars/*.toml. The file's name is the calendar's."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import field_validator, model_validator

from app.billing.domain.calendar import Calendar
from app.settings.config_errors import config_error
from app.settings.values import FromList, Section

FOLDER = Path(__file__).parent / "calendars"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MEND = 'write hours = ["09:00-12:00"], weekdays = ["mon"], holidays = ["2026-10-01..2026-10-07"]'
_PERIOD = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class CalendarSettings(Section):
    """When an upstream has peak hours."""

    # The zone whose clocks they go by, such as "Asia/Shanghai".
    zone: str
    # "09:00-12:00", in order.
    hours: Annotated[tuple[str, ...], FromList]
    weekdays: Annotated[tuple[str, ...], FromList] = _DAYS[:5]
    # Days without peak hours: "2026-01-01", or "2026-10-01..2026-10-07".
    holidays: Annotated[tuple[str, ...], FromList] = ()

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise config_error("must be a time zone", 'write it like "Asia/Shanghai"') from None
        return value

    def calendar(self) -> Calendar:
        """The plain value. Raises ValueError."""
        return Calendar(
            ZoneInfo(self.zone),
            tuple(map(_period, self.hours)),
            frozenset(_DAYS.index(day) for day in self.weekdays),
            frozenset(_dates(self.holidays)),
        )


class NamedCalendarSettings(CalendarSettings):
    """[[calendar]]: busy hours of your own knowledge."""

    # What an upstream's "busy" refers to it by; one of a built-in name stands in its place there.
    name: str

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        try:
            self.calendar()
        except ValueError as error:
            raise config_error(f"has hours, weekdays or holidays that are none ({error})", _MEND) from None
        return self


@cache
def calendars() -> Mapping[str, Calendar]:
    """All built-in calendars by name."""
    files = sorted(FOLDER.glob("*.toml"))
    read = {file.stem: tomllib.loads(file.read_text("utf-8")) for file in files}
    return {name: CalendarSettings.model_validate(data).calendar() for name, data in read.items()}


def _period(text: str) -> tuple[int, int]:
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise ValueError(f"not a period such as 09:00-12:00: {text!r}")
    begin, end = (int(found[n]) * 60 + int(found[n + 1]) for n in (1, 3))
    if not 0 <= begin < end <= 24 * 60:
        raise ValueError(f"must end after it begins, on the same day: {text!r}")
    return begin, end


def _dates(texts: Iterable[str]) -> Iterator[date]:
    for text in texts:
        first, _, last = text.partition("..")
        begin = date.fromisoformat(first)
        end = date.fromisoformat(last or first)
        yield from (begin + timedelta(days=number) for number in range((end - begin).days + 1))
