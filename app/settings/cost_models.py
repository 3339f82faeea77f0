"""Settings of money and the cache: [cache], [[price]], [[calendar]] and the built-in calendars."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from app.billing.domain.calendar import Calendar
from app.settings.config_errors import config_error
from app.settings.values import Count, FromList, Name, Section

MIB = 1024 * 1024
_DAY = 86400.0
_LARGEST = Decimal(1_000_000)


def _as_rate(value: Any) -> Any:
    """0.15 and "0.15" alike, exactly as written; as micro-units per million tokens."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise config_error("must be a price", 'write it like "0.15"')
    text = value if isinstance(value, str) else repr(value)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,12})?", text):
        raise config_error("must be a price per million tokens, not negative", 'write it like "0.15"')
    micros = Decimal(text) * 1_000_000
    if micros != micros.to_integral_value() or Decimal(text) > _LARGEST:
        raise config_error("must have at most six decimals and lie below a million", 'write it like "0.15"')
    return int(micros)


def _is_currency(value: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", value):
        raise config_error("must be a currency's three letters", 'write "USD" or "CNY"')
    return value


Rate = Annotated[int, BeforeValidator(_as_rate)]
Currency = Annotated[str, AfterValidator(_is_currency)]


class RateSettings(Section):
    """What a million tokens cost, in units of the currency. Kept as integer micro-units."""

    # Of a prompt, where the upstream did not have it in its cache.
    miss: Rate
    # Of an answer.
    output: Rate
    # Of a prompt, where it had; left out: as a miss.
    hit: Rate | None = None
    # Of the reasoning in an answer; left out: as output.
    reasoning: Rate | None = None


class DatedPriceSettings(RateSettings):
    """A price of an upstream's model, from a day on."""

    # The upstream's name of the model.
    model: Name
    # The day (UTC) from which it holds; left out: always. With several, the last one begun holds.
    since: date | None = None
    # "USD", "CNY" ... Costs in different currencies are never added.
    currency: Currency
    # What holds in peak hours instead.
    peak: RateSettings | None = None


class PriceSettings(DatedPriceSettings):
    """[[price]]: what an upstream asks for. Goes before the built-in list, date by date."""

    # The name of the [[upstream]].
    upstream: str
    # Whose peak hours `peak` stands for, such as "deepseek". Needed with `peak` and only there.
    calendar: str = ""

    @model_validator(mode="after")
    def _peak_hours_are_known(self) -> Self:
        if (self.peak is None) != (not self.calendar):
            raise config_error(
                "needs peak and calendar together", 'write calendar = "deepseek", or take both out'
            )
        return self


_LONG_LIVED = {"eviction": "lfu", "ttl": 30 * _DAY, "longest_ttl": 30 * _DAY, "entries": 100_000}


class CacheSettings(Section):
    """[cache]: answers kept to be given again. In the server at CACHE_URL, else in the database."""

    # Whether there is one at all.
    enabled: bool = True
    # "default", or "long_lived": for 30 days, the least frequently used evicted first, 100,000 entries. What is set
    # below takes precedence.
    preset: Literal["default", "long_lived"] = "default"
    # Which requests use it: "request": those that ask for it and those at temperature 0; "always": all but those that
    # opt out; "off": none. [[model]] cache and a client's `cache` limit add to it: off wins, then always.
    usage: Literal["request", "always", "off"] = "request"
    # Seconds an answer is kept, where a request does not say.
    ttl: Annotated[float, Field(ge=1)] = _DAY
    # Seconds it is kept at most, whatever a request says.
    longest_ttl: Annotated[float, Field(ge=1)] = 7 * _DAY
    # Maximum number of entries; beyond it some are evicted ...
    entries: Count = 100_000
    # ... the least recently used ("lru") or the least frequently used ("lfu").
    eviction: Literal["lru", "lfu"] = "lru"
    # Maximum size of an entry in bytes; larger responses are not cached.
    most_bytes: Count = MIB
    # Seconds an API process remembers an answer by itself, without asking where it is kept; 0: it does not.
    local_seconds: Annotated[float, Field(ge=0, le=3600)] = 300.0
    # Bytes of answers that one API process remembers.
    local_bytes: Count = 64 * MIB
    # Whether requests may open a scope that all clients share (`cache.scope = "shared"`). Off: each its own.
    shared: bool = False
    # Whether identical tasks in flight share one upstream call.
    coalesce: bool = True

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: Any) -> Any:
        long_lived = isinstance(given, dict) and given.get("preset") == "long_lived"
        return {**_LONG_LIVED, **given} if long_lived else given

    @model_validator(mode="after")
    def _longest_is_not_below(self) -> Self:
        if self.longest_ttl < self.ttl:
            raise config_error("has a longest_ttl below its ttl", "raise longest_ttl or lower ttl")
        return self


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
