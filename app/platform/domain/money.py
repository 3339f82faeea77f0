"""Money: exact integers of one currency, never added across currencies.

Costs are counted in pico-units, 10^-12 of a currency unit: no price is finer, so that costs and their sums are exact
and equal a provider's own bill to the last digit. Micro-units, which people are shown, are pico-units rounded half up;
this is the one place where anything is rounded, and what was rounded is never added up.
"""

from __future__ import annotations

from dataclasses import dataclass

PICOS_PER_MICRO = 10**6
PICOS_PER_UNIT = 10**12
# In place of a currency: of what was spent some has an unknown price or another currency, so there is no one sum.
NO_SUM = "?"


@dataclass(frozen=True, slots=True)
class CallCost:
    """What one call cost, and what was not spent on it, in pico-units of one currency."""

    picos: int
    currency: str
    prompt_cache_saved: int = 0  # by tokens that the upstream had in its cache, against the price of a miss
    off_peak_saved: int = 0  # by not being made in peak hours, against the peak price of the very same call


def micros(picos: int) -> int:
    """Pico-units as micro-units, rounded half up. For people to read; never to be added up."""
    return (picos + PICOS_PER_MICRO // 2) // PICOS_PER_MICRO


def amount(picos: int) -> str:
    """Pico-units as an exact decimal number of units, such as "0.0000123"; two decimals at least."""
    units, rest = divmod(abs(picos), PICOS_PER_UNIT)
    decimals = f"{rest:012d}".rstrip("0").ljust(2, "0")
    return f"{'-' if picos < 0 else ''}{units}.{decimals}"
