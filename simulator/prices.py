"""DeepSeek's prices, as dated data, and its peak hours.

Money is exact: pico-dollars inside (a price of 0.003 USD per million tokens is 3,000 pico-dollars a
token), reported in whole micro-dollars.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Literal

PICO_PER_MICRO = 1_000_000
PICO_PER_USD = 10**12
# USD per million tokens = micro-dollars per token = a million pico-dollars per token.
_PICO_PER_TOKEN = 1_000_000

Pricing = Literal["calendar", "off-peak", "peak"]


@dataclass(frozen=True, slots=True)
class SimulatedRates:
    """USD per million tokens: cached prompt, uncached prompt, answer."""

    hit: Decimal
    miss: Decimal
    output: Decimal

    def cost_pico(self, hit_tokens: int, miss_tokens: int, output_tokens: int) -> int:
        """The price of one call in pico-dollars."""
        usd = self.hit * hit_tokens + self.miss * miss_tokens + self.output * output_tokens
        return int(usd * _PICO_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class SimulatedPrice:
    """A model's price and the day it was read."""

    off_peak: SimulatedRates
    peak: SimulatedRates
    as_of: date

    def at(self, pricing: Pricing, wall_at: float, holidays: Collection[date]) -> SimulatedRates:
        """The rates for a call that arrived at `wall_at` (Unix seconds)."""
        if pricing == "calendar":
            return self.peak if is_peak(wall_at, holidays) else self.off_peak
        return self.peak if pricing == "peak" else self.off_peak


def _rates(hit: str, miss: str, output: str) -> SimulatedRates:
    return SimulatedRates(Decimal(hit), Decimal(miss), Decimal(output))


DEEPSEEK_PRICES = {
    "deepseek-flash": SimulatedPrice(
        _rates("0.003", "0.15", "0.60"), _rates("0.006", "0.30", "1.20"), as_of=date(2026, 8, 16)
    ),
    "deepseek-v4-pro": SimulatedPrice(
        _rates("0.022", "0.66", "1.98"), _rates("0.044", "1.32", "3.96"), as_of=date(2026, 8, 16)
    ),
}

_BEIJING = timezone(timedelta(hours=8))
_PEAK_HOURS = (range(9, 12), range(14, 18))  # Beijing time, on working days


def _days(first: date, last: date) -> tuple[date, ...]:
    return tuple(first + timedelta(days=day) for day in range((last - first).days + 1))


# Chinese public holidays: 2026 as announced in November 2025; of 2027 only the statutory days.
CHINESE_HOLIDAYS: tuple[date, ...] = (
    *_days(date(2026, 1, 1), date(2026, 1, 3)),
    *_days(date(2026, 2, 15), date(2026, 2, 23)),
    *_days(date(2026, 4, 4), date(2026, 4, 6)),
    *_days(date(2026, 5, 1), date(2026, 5, 5)),
    *_days(date(2026, 6, 19), date(2026, 6, 21)),
    *_days(date(2026, 9, 25), date(2026, 9, 27)),
    *_days(date(2026, 10, 1), date(2026, 10, 7)),
    date(2027, 1, 1),
    *_days(date(2027, 2, 5), date(2027, 2, 8)),
    date(2027, 4, 5),
    *_days(date(2027, 5, 1), date(2027, 5, 2)),
    date(2027, 6, 9),
    date(2027, 9, 15),
    *_days(date(2027, 10, 1), date(2027, 10, 3)),
)


def is_peak(wall_at: float, holidays: Collection[date] = CHINESE_HOLIDAYS) -> bool:
    """Whether `wall_at` (Unix seconds) is in peak hours: Beijing working days 09-12 and 14-18."""
    local = datetime.fromtimestamp(wall_at, UTC).astimezone(_BEIJING)
    if local.weekday() >= 5 or local.date() in holidays:
        return False
    return any(local.hour in hours for hours in _PEAK_HOURS)


def micro_usd(pico: int) -> int:
    """Pico-dollars in micro-dollars, rounded half up."""
    return (pico + PICO_PER_MICRO // 2) // PICO_PER_MICRO
