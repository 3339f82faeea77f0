"""Prices: exact, dated, each token once, unknown is unknown."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.billing.domain.pricing import Price, PriceBook, Rates
from app.platform.domain.money import CallCost, amount, micros
from app.tasks.domain.attempt import TokenUsage

OFF_PEAK = Rates(3_000, 150_000, 600_000, 600_000)
PEAK = Rates(6_000, 300_000, 1_200_000, 1_200_000)
AUGUST, NOVEMBER = 1_786_838_400.0, 1_795_000_000.0

tokens = st.integers(0, 2**31 - 1)
usages = st.builds(TokenUsage, tokens, tokens, tokens, tokens)


def book(*prices: Price, peak: bool = False) -> PriceBook:
    return PriceBook.of((("deepseek", "flash", price) for price in prices), {"deepseek": lambda _: peak})


DATED = Price(AUGUST, "USD", OFF_PEAK, PEAK, "deepseek")


@pytest.mark.parametrize(
    ("usage", "picos"),
    [
        (TokenUsage(1_000_000, 0), 150_000 * 10**6),
        (TokenUsage(1_000_000, 0, cached_tokens=1_000_000), 3_000 * 10**6),
        (TokenUsage(0, 1_000_000), 600_000 * 10**6),
        (TokenUsage(0, 1_000_000, reasoning_tokens=400_000), 600_000 * 10**6),
        (TokenUsage(100, 10, cached_tokens=64, reasoning_tokens=4), 64 * 3_000 + 36 * 150_000 + 10 * 600_000),
        (TokenUsage(0, 0), 0),
    ],
)
def test_a_call_costs_each_of_its_tokens_once(usage: TokenUsage, picos: int) -> None:
    assert book(DATED).cost("deepseek", "flash", usage, NOVEMBER) == CallCost(
        picos, "USD", usage.cached_tokens * 147_000, PEAK.picos(usage) - picos
    )


def test_reasoning_may_have_a_price_of_its_own() -> None:
    rates = Rates(1, 2, 3, 50)
    assert rates.picos(TokenUsage(0, 10, reasoning_tokens=4)) == 6 * 3 + 4 * 50


@given(usages)
def test_parts_never_count_more_than_their_whole(usage: TokenUsage) -> None:
    least = usage.prompt_tokens * OFF_PEAK.hit + usage.completion_tokens * OFF_PEAK.output
    most = usage.prompt_tokens * OFF_PEAK.miss + usage.completion_tokens * OFF_PEAK.output
    assert least <= OFF_PEAK.picos(usage) <= most


@given(usages)
def test_cost_equals_the_decimal_arithmetic_of_the_price_list(usage: TokenUsage) -> None:
    hits = min(usage.cached_tokens, usage.prompt_tokens)
    dollars = (
        Decimal("0.003") * hits
        + Decimal("0.15") * (usage.prompt_tokens - hits)
        + Decimal("0.60") * usage.completion_tokens
    ) / 10**6
    assert Decimal(amount(OFF_PEAK.picos(usage))) == dollars


def test_peak_hours_cost_the_peak_price_and_save_nothing() -> None:
    usage = TokenUsage(1000, 100)
    cost = book(DATED, peak=True).cost("deepseek", "flash", usage, NOVEMBER)
    assert cost == CallCost(PEAK.picos(usage), "USD", 0, 0)


def test_a_price_without_peak_hours_saves_nothing_by_the_hour() -> None:
    cost = book(Price(0, "USD", OFF_PEAK)).cost("deepseek", "flash", TokenUsage(10, 10), NOVEMBER)
    assert cost is not None
    assert cost.off_peak_saved == 0


@pytest.mark.parametrize(
    ("upstream", "model", "at"),
    [("deepseek", "flash", AUGUST - 1), ("deepseek", "other", NOVEMBER), ("elsewhere", "flash", NOVEMBER)],
)
def test_an_unknown_price_is_none_and_not_zero(upstream: str, model: str, at: float) -> None:
    assert book(DATED).cost(upstream, model, TokenUsage(10, 10), at) is None


def test_tokens_that_nobody_counted_have_no_cost() -> None:
    assert book(DATED).cost("deepseek", "flash", None, NOVEMBER) is None


def test_peak_hours_that_nobody_knows_make_the_price_unknown() -> None:
    prices = PriceBook.of([("deepseek", "flash", DATED)], {})
    assert prices.cost("deepseek", "flash", TokenUsage(10, 10), NOVEMBER) is None


def test_the_price_in_force_is_the_last_one_begun() -> None:
    earlier = Price(100.0, "CNY", Rates(1, 1, 1, 1))
    prices = book(DATED, earlier)
    assert prices.price("deepseek", "flash", 99.9) is None
    assert prices.price("deepseek", "flash", 100.0) == earlier
    assert prices.price("deepseek", "flash", AUGUST - 0.001) == earlier
    assert prices.price("deepseek", "flash", AUGUST) == DATED


def test_of_two_prices_with_one_date_the_operators_own_given_later_holds() -> None:
    own = Price(AUGUST, "USD", Rates(1, 1, 1, 1))
    assert book(DATED, own).price("deepseek", "flash", NOVEMBER) == own


@given(usages)
def test_no_call_costs_more_than_its_ceiling(usage: TokenUsage) -> None:
    for peak in (False, True):
        cost = book(DATED, peak=peak).cost("deepseek", "flash", usage, NOVEMBER)
        whole = usage.prompt_tokens + usage.completion_tokens
        ceiling = book(DATED).ceiling("deepseek", "flash", whole, NOVEMBER)
        assert cost is not None
        assert ceiling is not None
        assert cost.picos <= ceiling.picos


@given(usages)
def test_savings_are_the_difference_to_a_call_without_them(usage: TokenUsage) -> None:
    cost = book(DATED).cost("deepseek", "flash", usage, NOVEMBER)
    uncached = TokenUsage(usage.prompt_tokens, usage.completion_tokens)
    assert cost is not None
    assert cost.picos + cost.prompt_cache_saved == OFF_PEAK.picos(uncached)
    assert cost.picos + cost.off_peak_saved == PEAK.picos(usage)


@pytest.mark.parametrize(
    ("picos", "rounded"),
    [(0, 0), (499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2), (10**12, 10**6)],
)
def test_micro_units_are_rounded_half_up(picos: int, rounded: int) -> None:
    assert micros(picos) == rounded


@pytest.mark.parametrize(
    ("picos", "shown"),
    [
        (0, "0.00"),
        (1, "0.000000000001"),
        (192_000, "0.000000192"),
        (15 * 10**11, "1.50"),
        (-(10**12), "-1.00"),
    ],
)
def test_amounts_are_exact_decimals(picos: int, shown: str) -> None:
    assert amount(picos) == shown


@given(st.integers(0, 10**18))
def test_an_amount_reads_back_as_what_it_was(picos: int) -> None:
    assert Decimal(amount(picos)) * 10**12 == picos
