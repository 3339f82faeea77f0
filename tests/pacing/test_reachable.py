"""Tasks that cannot begin before their deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pacing.domain.throughput import AT_ONCE, ThroughputCeiling, ceiling_of, unreachable
from app.settings.domain.routing import BalancingPolicy, ConfiguredQuota, Route, Topology
from app.tasks.domain.eligibility import TierRule

ONE, TWO = Route("k1", "u", "a", "m"), Route("k2", "u", "b", "m")


def topology(*quotas: ConfiguredQuota, rule: TierRule | None = None) -> Topology:
    policies = {"m": BalancingPolicy(tiers=(rule,))} if rule else {}
    return Topology({"m": ((ONE,), (TWO,))}, {quota.id: quota for quota in quotas}, policies)


def test_the_told_paces_of_all_tiers_count_together_and_a_quarter_more() -> None:
    found = ceiling_of(
        "m", topology(ConfiguredQuota("account:a:m", rpm=60), ConfiguredQuota("key:k2:*", rpm=180))
    )
    assert found == ThroughputCeiling(5.0, 5.0 * AT_ONCE, 240)


@pytest.mark.parametrize(
    "unsure",
    [
        topology(ConfiguredQuota("account:a:m", rpm=60)),  # the second tier's pace is not told
        topology(ConfiguredQuota("account:a:m", rpm=60), ConfiguredQuota("account:b:m", concurrency=3)),
        topology(
            ConfiguredQuota("account:a:m", rpm=60),
            ConfiguredQuota("account:b:m", rpm=60),
            rule=TierRule("a condition", frozenset()),
        ),
        Topology({"m": ()}),
    ],
)
def test_where_anything_is_not_sure_nothing_is_said(unsure: Topology) -> None:
    assert ceiling_of("m", unsure) is None
    assert ceiling_of("unknown", unsure) is None


deadlines = st.lists(st.floats(0, 500), max_size=60)


@given(deadlines, st.floats(0.1, 5.0), st.integers(0, 10))
def test_whoever_could_begin_in_time_at_the_ceiling_is_left_alone(
    waiting: list[float], rate: float, at_once: int
) -> None:
    """On a virtual clock, at the fastest that is possible: the n-th call goes as soon as the bucket has it."""
    gone = set(unreachable(waiting, 0.0, ThroughputCeiling(rate, at_once, rate * 60)))
    sent = 0
    for place, deadline in enumerate(waiting):
        if place in gone:
            assert max(0.0, sent - at_once) / rate > deadline
        else:
            assert max(0.0, sent - at_once) / rate <= deadline
            sent += 1


@given(deadlines, st.floats(0.1, 5.0))
def test_who_is_first_is_never_too_late_before_its_deadline(waiting: list[float], rate: float) -> None:
    assert 0 not in unreachable(waiting, 0.0, ThroughputCeiling(rate, rate * AT_ONCE, rate * 60))
