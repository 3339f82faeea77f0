"""Shares of what a team's administrator has: together never more."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from app.access.domain.caller import ClientLimits, parse_limits, share, too_small

NAMES = ("rpm", "most_waiting", "tokens_per_day", "tokens_per_month")
COUNTS = st.none() | st.integers(1, 10**6)
MONEY = st.none() | st.decimals("0", "1000", places=2).map(str)
LIMITS = st.builds(
    ClientLimits,
    rpm=COUNTS,
    most_waiting=COUNTS,
    tokens_per_day=COUNTS,
    tokens_per_month=COUNTS,
    money_per_day=MONEY,
    money_per_month=MONEY,
    currency=st.just("USD"),
    store=st.booleans(),
    retention_seconds=st.none() | st.floats(1, 1000),
)


@given(LIMITS, st.lists(LIMITS, max_size=3), st.integers(1, 100))
def test_shares_add_up_to_no_more_than_there_is(
    own: ClientLimits, team: list[ClientLimits], count: int
) -> None:
    each = share(own, team, count)
    for name in NAMES:
        has, gets = getattr(own, name), getattr(each, name)
        if has is not None and too_small(own, count) is None:
            assert 0 < gets * count <= has
        others = [value for one in team if (value := getattr(one, name)) is not None]
        if has is None:
            assert gets == min(others, default=None)
    for name in ("money_per_day", "money_per_month"):
        if getattr(own, name) is not None:
            assert Decimal(getattr(each, name)) * count <= Decimal(getattr(own, name))
    assert (each.store, each.retention_seconds) == (own.store, own.retention_seconds)


@given(LIMITS, st.lists(LIMITS, max_size=3), st.integers(1, 100))
def test_a_share_is_a_clients_limits(own: ClientLimits, team: list[ClientLimits], count: int) -> None:
    each = share(own, team, count)
    values = {name: getattr(each, name) for name in (*NAMES, "money_per_day", "money_per_month", "currency")}
    parse_limits(values)
