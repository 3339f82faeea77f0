"""The balance of each account."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal

from simulator.prices import PICO_PER_USD

_CENT = Decimal("0.01")
# Shown for an account without a limit: clients expect a number.
_ENDLESS = Decimal("1000000.00")


class Balances:
    """Pico-dollars by account; an account that is not named here never runs out."""

    __slots__ = ("_left_pico",)

    def __init__(self, balances: Mapping[str, Decimal | None]) -> None:
        """Balances in USD."""
        self._left_pico: dict[str, int] = {}
        self.set(balances)

    def set(self, balances: Mapping[str, Decimal | None]) -> None:
        """Set the balances of accounts; None removes the limit."""
        for account, usd in balances.items():
            if usd is None:
                self._left_pico.pop(account, None)
            else:
                self._left_pico[account] = int(usd * PICO_PER_USD)

    def available(self, account: str) -> bool:
        """Whether another call is admitted. The last one may overdraw, as at real providers."""
        return self._left_pico.get(account, 1) > 0

    def spend(self, account: str, pico: int) -> None:
        """Charge the price of a call."""
        if account in self._left_pico:
            self._left_pico[account] -= pico

    def total(self, account: str) -> str:
        """The balance in USD as the balance page writes it."""
        left = self._left_pico.get(account)
        usd = _ENDLESS if left is None else Decimal(left) / PICO_PER_USD
        return str(usd.quantize(_CENT, rounding=ROUND_DOWN) + 0)  # + 0: no "-0.00"
