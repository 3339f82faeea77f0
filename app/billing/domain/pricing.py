"""The cost of calls: dated prices, exact integers, currencies kept apart; an unknown price is not 0.

A rate is an integer number of micro-units (millionths of a currency unit) per million tokens: DeepSeek's 0.003 USD
per million cached tokens is 3,000. One token at rate r then costs r pico-units, again an integer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from app.platform.domain.money import CallCost
from app.tasks.domain.attempt import TokenUsage

IsPeak = Callable[[float], bool]  # whether an instant (Unix seconds) is in peak hours


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-units per million tokens. `hit`, `miss`: prompt tokens in the upstream's cache, or not."""

    hit: int
    miss: int
    output: int
    reasoning: int  # charged as output by most upstreams

    def picos(self, usage: TokenUsage) -> int:
        """The exact cost of one call in pico-units, every token counted once.

        Cached tokens are part of the prompt, and reasoning tokens part of the completion; a part that an upstream
        counts larger than the whole is capped.
        """
        hits = min(usage.cached_tokens, usage.prompt_tokens)
        reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
        prompt = self.hit * hits + self.miss * (usage.prompt_tokens - hits)
        return prompt + self.reasoning * reasoning + self.output * (usage.completion_tokens - reasoning)

    def without_hits(self) -> Rates:
        """The same rates with no cache discount."""
        return Rates(self.miss, self.miss, self.output, self.reasoning)


@dataclass(frozen=True, slots=True)
class Price:
    """An upstream model's price from an instant (Unix seconds) until the next price.

    `standard` applies outside peak hours, or always when `peak` is None. `calendar` names the peak hours.
    """

    since: float
    currency: str
    standard: Rates
    peak: Rates | None = None
    calendar: str = ""


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All known prices by (upstream, upstream model), sorted by `since`."""

    prices: Mapping[tuple[str, str], tuple[Price, ...]] = field(default_factory=dict)
    calendars: Mapping[str, IsPeak] = field(default_factory=dict)

    @classmethod
    def of(
        cls, prices: Iterable[tuple[str, str, Price]], calendars: Mapping[str, IsPeak] | None = None
    ) -> PriceBook:
        """Sort (upstream, upstream model, price); of two with the same date, the later one given applies."""
        found: dict[tuple[str, str], dict[float, Price]] = {}
        for upstream, model, price in prices:
            found.setdefault((upstream, model), {})[price.since] = price
        ordered = {name: tuple(dated[since] for since in sorted(dated)) for name, dated in found.items()}
        return cls(ordered, calendars or {})

    def price(self, upstream: str, model: str, at: float) -> Price | None:
        """The price that applies at an instant; None when unknown."""
        dated = self.prices.get((upstream, model), ())
        place = bisect_right(dated, at, key=lambda price: price.since)
        return dated[place - 1] if place else None

    def cost(self, upstream: str, model: str, usage: TokenUsage | None, at: float) -> CallCost | None:
        """The cost of a call sent at `at`; None (not 0) when its tokens or their price are unknown."""
        price = self.price(upstream, model, at)
        if usage is None or price is None:
            return None
        rates = self._rates(price, at)
        if rates is None:
            return None
        picos = rates.picos(usage)
        off_peak = price.peak is not None and rates is not price.peak
        return CallCost(
            picos,
            price.currency,
            prompt_cache_saved=rates.without_hits().picos(usage) - picos,
            off_peak_saved=price.peak.picos(usage) - picos if price.peak is not None and off_peak else 0,
        )

    def ceiling(self, upstream: str, model: str, tokens: int, at: float) -> CallCost | None:
        """The highest possible cost of a call with so many tokens, at known prices: for budgets."""
        price = self.price(upstream, model, at)
        if price is None:
            return None
        every = (price.standard, price.peak) if price.peak is not None else (price.standard,)
        dearest = max(max(rates.hit, rates.miss, rates.output, rates.reasoning) for rates in every)
        return CallCost(dearest * tokens, price.currency)

    def _rates(self, price: Price, at: float) -> Rates | None:
        """None when the peak hours are unknown."""
        if price.peak is None:
            return price.standard
        is_peak = self.calendars.get(price.calendar)
        if is_peak is None:
            return None
        return price.peak if is_peak(at) else price.standard
