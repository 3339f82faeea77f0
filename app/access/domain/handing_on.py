"""What a team's administrator hands on to clients that it adds: equal shares, together no more than it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal

from app.access.domain.client_limits import _AMOUNTS, ClientLimits

MOST_CLIENTS = 100  # that one administrator of a team may add
_LEAST_COUNTS = {"rpm": 1, "most_waiting": 0, "tokens_per_day": 0, "tokens_per_month": 0}  # and the least of each
_STEP = Decimal("0.000001")


def share(own: ClientLimits, team: Sequence[ClientLimits], count: int) -> ClientLimits:
    """The limits of each of `count` clients.

    Where their maker has no limit of a kind, each gets the tightest that the team's other clients have, if any, so that
    a new client is no way round it.
    """
    currency = own.currency or next((one.currency for one in team if one.has_money), None)
    alike = [one for one in team if one.currency == currency]
    counts = {name: _count(getattr(own, name), name, team, count) for name in _LEAST_COUNTS}
    amounts = {name: _amount(getattr(own, name), name, alike, count) for name in _AMOUNTS}
    has_money = any(value is not None for value in amounts.values())
    return replace(own, currency=currency if has_money else None, **counts, **amounts)  # type: ignore[arg-type]


def used_up(own: ClientLimits, count: int) -> str | None:
    """The limit of which `count` clients would get nothing each; None: there is enough of all."""
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
