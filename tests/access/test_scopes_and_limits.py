"""Scopes, limits and budgets, as values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.domain.caller import (
    NO_LIMITS,
    SCOPES,
    ClientLimits,
    allows,
    as_mapping,
    parse_limits,
    parse_scopes,
    picos,
    scope_of,
    within,
)
from app.billing.domain.budget import BudgetCeiling, Spent, ceilings, exceeded, fitting, periods, total

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("granted", "wanted", "holds"),
    [
        ({"*"}, "admin:write", True),
        ({"tasks:read"}, "tasks:read", True),
        ({"tasks:read"}, "tasks:write", False),
        ({"tasks:write"}, "tasks:read", True),
        ({"batches:*"}, "batches:write", True),
        ({"batches:*"}, "tasks:read", False),
        (set(), "tasks:read", False),
    ],
)
def test_a_scope_reaches_as_far_as_it_says(granted: set[str], wanted: str, holds: bool) -> None:
    assert allows(granted, wanted) is holds


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/tasks", "tasks:write"),
        ("GET", "/v1/tasks/x", "tasks:read"),
        ("DELETE", "/v1/tasks/x", "tasks:write"),
        ("POST", "/v1/chat/completions", "tasks:write"),
        ("GET", "/v1/models", "tasks:read"),
        ("POST", "/api/v1/batch", "batches:write"),
        ("GET", "/v1/batches/x", "batches:read"),
        ("POST", "/v1/files", "batches:write"),
        ("GET", "/v1/usage", "usage:read"),
        ("POST", "/v1/admin/clients", "admin:write"),
        ("GET", "/v1/admin/keys", "admin:read"),
    ],
)
def test_every_call_needs_one_scope(method: str, path: str, scope: str) -> None:
    assert scope_of(method, path) == scope
    assert scope in SCOPES


def test_nobody_hands_on_more_than_he_has() -> None:
    assert within(["tasks:read", "batches:read"], {"tasks:write", "batches:*"})
    assert not within(["*"], {"tasks:*", "batches:*"})
    assert not within(["tasks:*"], {"tasks:read", "tasks:write"})


@pytest.mark.parametrize("wanted", [[], ["tasks"], ["x:*"], ["tasks:delete"], [""]])
def test_unknown_scopes_are_refused(wanted: list[str]) -> None:
    with pytest.raises(ValueError, match="scope"):
        parse_scopes(wanted)


@pytest.mark.parametrize(
    ("given_", "field"),
    [
        ({"rpm": 0}, "rpm"),
        ({"rpm": True}, "rpm"),
        ({"rps": 1}, "rps"),
        ({"tokens_per_day": -1}, "tokens_per_day"),
        ({"money_per_day": "much", "currency": "USD"}, "money_per_day"),
        ({"money_per_day": "NaN", "currency": "USD"}, "money_per_day"),
        ({"money_per_day": "5"}, "currency"),
        ({"over_budget": "hope"}, "over_budget"),
        ({"store": "no"}, "store"),
        ({"retention_seconds": 0}, "retention_seconds"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(given_: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}"):
        parse_limits(given_)


def test_limits_read_back_as_they_were() -> None:
    limits = ClientLimits(rpm=5, tokens_per_day=0, money_per_month="0.10", currency="USD", store=False)
    assert parse_limits(as_mapping(limits)) == limits
    assert parse_limits({}) == NO_LIMITS
    assert not NO_LIMITS.has_budget
    assert picos("0.10") == 10**11


def test_a_day_and_its_month_are_limited_apart() -> None:
    day, month = periods(NOW)
    limits = ClientLimits(tokens_per_day=100, tokens_per_month=150)
    most = ceilings(limits, NOW)
    assert most == {day: BudgetCeiling(100, None), month: BudgetCeiling(150, None)}
    assert exceeded(most, {day: Spent(90)}, Spent(10)) is None
    assert exceeded(most, {day: Spent(90)}, Spent(11)) == f"tokens of {day}"
    assert exceeded(most, {day: Spent(0), month: Spent(149)}, Spent(2)) == f"tokens of {month}"


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 300), st.integers(0, 300))
def test_what_fits_never_overspends_and_could_not_be_more(sizes: list[int], spent: int, most: int) -> None:
    wishes = [Spent(size) for size in sizes]
    ceiling = {"2026-11": BudgetCeiling(most, None)}
    before = {"2026-11": Spent(spent)}
    count = fitting(ceiling, before, wishes)
    if count:
        assert spent + total(wishes[:count]).tokens <= most
    if count < len(wishes):
        assert spent + total(wishes[: count + 1]).tokens > most
