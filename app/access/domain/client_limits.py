"""What a client may use: requests per minute, tasks waiting, budgets; how long its content is kept.

Clients that a team's administrator adds get equal shares of that administrator's limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any, Literal

PICOS = 10**12
_MOST = 10**15
MOST_RETENTION = 10 * 365 * 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """None: no limit. Money is a decimal text in `currency`, such as "12.50"; periods are UTC days and months."""

    rpm: int | None = None  # requests per minute to the API
    most_waiting: int | None = None  # tasks queued at once
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: str | None = None
    money_per_month: str | None = None
    currency: str | None = None  # of both, such as USD
    over_budget: Literal["refuse", "wait"] = "refuse"
    order: Literal["arrival", "deadline"] = "arrival"  # the order of requests that do not choose one
    store: bool = True  # for requests that do not choose; False: content is erased once delivered
    retention_seconds: float | None = None  # from a task's end; None: the service's own

    @property
    def has_budget(self) -> bool:
        """Whether tasks must reserve tokens or money."""
        return any(value is not None for value in (self.tokens_per_day, self.tokens_per_month)) or (
            self.has_money
        )

    @property
    def has_money(self) -> bool:
        """Whether there is a budget of money, so that prices must be known."""
        return self.money_per_day is not None or self.money_per_month is not None


NO_LIMITS = ClientLimits()
_COUNTS = ("rpm", "most_waiting", "tokens_per_day", "tokens_per_month")
_AMOUNTS = ("money_per_day", "money_per_month")


def parse_limits(given: Mapping[str, Any]) -> ClientLimits:
    """Check a client's `limits`. Raises ValueError that begins with the field's name."""
    known = {item.name for item in fields(ClientLimits)}
    for name in given:
        if name not in known:
            raise ValueError(f"{str(name)[:40]}: unknown limit; choose from {', '.join(sorted(known))}")
    values = dict(given)
    for name in _COUNTS:
        _check_count(name, values.get(name))
    for name in _AMOUNTS:
        if values.get(name) is not None:
            picos(values[name], name)
            values[name] = str(values[name])
    _check_rest(values)
    return ClientLimits(**values)


def as_mapping(limits: ClientLimits) -> dict[str, Any]:
    """Only what differs from NO_LIMITS; `parse_limits` reads it again."""
    pairs = ((item.name, getattr(limits, item.name)) for item in fields(ClientLimits))
    return {name: value for name, value in pairs if value != getattr(NO_LIMITS, name)}


def picos(amount: Any, name: str = "amount") -> int:
    """A decimal amount in pico-units, exactly. Raises ValueError."""
    try:
        value = Decimal(str(amount))
    except InvalidOperation:
        raise ValueError(f"{name}: must be an amount such as 12.50") from None
    if isinstance(amount, bool) or not value.is_finite() or not 0 <= value <= _MOST // 10**9:
        raise ValueError(f"{name}: must be an amount such as 12.50, from 0 to 1,000,000")
    return int(value * PICOS)


def _check_count(name: str, value: Any) -> None:
    lowest = 1 if name == "rpm" else 0
    if value is not None and (type(value) is not int or not lowest <= value <= _MOST):
        raise ValueError(f"{name}: must be a whole number of at least {lowest}")


def _check_rest(values: dict[str, Any]) -> None:
    if values.get("over_budget", "refuse") not in ("refuse", "wait"):
        raise ValueError("over_budget: must be refuse or wait")
    if values.get("order", "arrival") not in ("arrival", "deadline"):
        raise ValueError("order: must be arrival or deadline")
    if type(values.get("store", True)) is not bool:
        raise ValueError("store: must be true or false")
    kept = values.get("retention_seconds")
    if kept is not None and (
        isinstance(kept, bool) or not isinstance(kept, int | float) or not 0 < kept <= MOST_RETENTION
    ):
        raise ValueError("retention_seconds: must be above 0 and at most ten years")
    currency = values.get("currency")
    has_money = any(values.get(name) is not None for name in _AMOUNTS)
    if currency is not None and (
        not isinstance(currency, str) or not currency.isascii() or not 1 <= len(currency) <= 8
    ):
        raise ValueError("currency: must be a currency such as USD")
    if has_money and currency is None:
        raise ValueError("currency: required for a budget of money, such as USD")


MOST_CLIENTS = 100  # that one administrator of a team may add
_LEAST_COUNTS = {
    "rpm": 1,
    "most_waiting": 0,
    "tokens_per_day": 0,
    "tokens_per_month": 0,
}  # with the minimum of each
_STEP = Decimal("0.000001")


def share(own: ClientLimits, team: Sequence[ClientLimits], count: int) -> ClientLimits:
    """The limits of each of `count` clients.

    Where the administrator has no limit of a kind, each gets the tightest that the team's other clients have,
    if any, so that a new client cannot bypass it.
    """
    currency = own.currency or next((one.currency for one in team if one.has_money), None)
    alike = [one for one in team if one.currency == currency]
    counts = {name: _count(getattr(own, name), name, team, count) for name in _LEAST_COUNTS}
    amounts = {name: _amount(getattr(own, name), name, alike, count) for name in _AMOUNTS}
    has_money = any(value is not None for value in amounts.values())
    return replace(own, currency=currency if has_money else None, **counts, **amounts)  # type: ignore[arg-type]


def too_small(own: ClientLimits, count: int) -> str | None:
    """The first limit too small for `count` clients to get one unit each; None: all suffice."""
    return next((name for name in _LEAST_COUNTS if 0 < (getattr(own, name) or 0) < count), None)


def _count(own: int | None, name: str, team: Sequence[ClientLimits], count: int) -> int | None:
    if own is not None:
        return max(_LEAST_COUNTS[name], own // count)
    return min((value for one in team if (value := getattr(one, name)) is not None), default=None)


def _amount(own: str | None, name: str, team: Sequence[ClientLimits], count: int) -> str | None:
    if own is not None:
        return str((Decimal(own) / count).quantize(_STEP, ROUND_DOWN))
    amounts = [Decimal(value) for one in team if (value := getattr(one, name)) is not None]
    return str(min(amounts)) if amounts else None
