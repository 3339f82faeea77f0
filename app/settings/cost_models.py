"""What can be set about money and the cache: [cache] and [[price]]."""

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from app.settings.config_errors import config_error
from app.settings.values import Count, Name, Section

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


class CacheSettings(Section):
    """[cache]: answers kept to be given again. In the server at CACHE_URL, else in the database."""

    # Whether there is one at all. Requests say whether they use it; at temperature 0 they do by themselves.
    enabled: bool = True
    # Seconds an answer is kept, where a request does not say.
    ttl: Annotated[float, Field(ge=1)] = _DAY
    # Seconds it is kept at most, whatever a request says.
    longest_ttl: Annotated[float, Field(ge=1)] = 7 * _DAY
    # Answers kept at most; beyond it the least recently used go.
    entries: Count = 100_000
    # Bytes of one answer at most; larger ones are not kept.
    most_bytes: Count = MIB
    # Seconds an API process remembers an answer by itself, without asking where it is kept; 0: it does not.
    local_seconds: Annotated[float, Field(ge=0, le=3600)] = 300.0
    # Bytes of answers that one API process remembers.
    local_bytes: Count = 64 * MIB
    # Whether requests may open a scope that all clients share (`cache.scope = "shared"`). Off: each its own.
    shared: bool = False
    # Whether identical tasks in flight share one upstream call.
    coalesce: bool = True

    @model_validator(mode="after")
    def _longest_is_not_below(self) -> Self:
        if self.longest_ttl < self.ttl:
            raise config_error("has a longest_ttl below its ttl", "raise longest_ttl or lower ttl")
        return self
