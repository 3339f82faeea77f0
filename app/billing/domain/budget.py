"""Budgets by day and month: reserved when a task is submitted, settled when it has ended.

Used and reserved amounts count together, so that queued tasks can never overspend a budget. All amounts are integers:
tokens, and pico-units of currency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.access.domain.caller import ClientLimits, picos


@dataclass(frozen=True, slots=True)
class Spent:
    """What one client has used and reserved within one period."""

    tokens: int = 0
    picos: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.picos + other.picos)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.tokens - other.tokens, self.picos - other.picos)


@dataclass(frozen=True, slots=True)
class BudgetCeiling:
    """The limits of one period; None: unlimited."""

    tokens: int | None
    picos: int | None


def periods(at: float) -> tuple[str, str]:
    """The UTC day and month of an instant (Unix seconds), as 2026-11-21 and 2026-11."""
    day = datetime.fromtimestamp(at, UTC).date().isoformat()
    return day, day[:7]


def ceilings(limits: ClientLimits, at: float) -> dict[str, BudgetCeiling]:
    """The limits of the current day and month; unlimited periods are left out."""
    day, month = periods(at)
    both = {
        day: BudgetCeiling(limits.tokens_per_day, _picos(limits.money_per_day)),
        month: BudgetCeiling(limits.tokens_per_month, _picos(limits.money_per_month)),
    }
    return {name: c for name, c in both.items() if c.tokens is not None or c.picos is not None}


def exceeded(ceiling: Mapping[str, BudgetCeiling], spent: Mapping[str, Spent], more: Spent) -> str | None:
    """Which limit `more` would exceed, as text; None: none."""
    for period, most in ceiling.items():
        total = spent.get(period, Spent()) + more
        if most.tokens is not None and total.tokens > most.tokens:
            return f"tokens of {period}"
        if most.picos is not None and total.picos > most.picos:
            return f"money of {period}"
    return None


def used_share(ceiling: Mapping[str, BudgetCeiling], spent: Mapping[str, Spent]) -> float:
    """The largest used share of any limit; a limit of 0 is used up."""
    shares = [0.0]
    for period, most in ceiling.items():
        used = spent.get(period, Spent())
        for amount, limit in ((used.tokens, most.tokens), (used.picos, most.picos)):
            if limit is not None:
                shares.append(amount / limit if limit else 1.0)
    return max(shares)


def fitting(
    ceiling: Mapping[str, BudgetCeiling], spent: Mapping[str, Spent], waiting: Sequence[Spent]
) -> int:
    """How many of the waiting tasks fit, from the first on: none overtakes another."""
    total = Spent()
    for number, amount in enumerate(waiting):
        total += amount
        if exceeded(ceiling, spent, total):
            return number
    return len(waiting)


def total(amounts: Iterable[Spent]) -> Spent:
    """The sum of amounts."""
    found = Spent()
    for amount in amounts:
        found += amount
    return found


def _picos(amount: str | None) -> int | None:
    return None if amount is None else picos(amount)
