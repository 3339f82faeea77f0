"""Sliding windows against a count by hand."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.peaks import SlidingPeak

entries = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=60)


def by_hand(seconds: float, given_entries: list[tuple[float, int]]) -> int:
    """The largest sum over windows that end at an entry."""
    instants = sorted(at for at, _ in given_entries)
    sums = list(accumulate((amount for _, amount in sorted(given_entries)), initial=0))
    spans = ((bisect_right(instants, end - seconds), bisect_right(instants, end)) for end in instants)
    return max((sums[last] - sums[first] for first, last in spans), default=0)


def recorded(seconds: float, given_entries: list[tuple[float, int]]) -> int:
    peak = SlidingPeak(seconds)
    for at, amount in given_entries:
        peak.add(at, amount)
    return peak.peak


@given(entries)
def test_the_peak_is_the_largest_window(given_entries: list[tuple[float, int]]) -> None:
    assert recorded(10, sorted(given_entries)) == by_hand(10, given_entries)


@given(entries)
def test_late_entries_are_counted_where_they_belong(given_entries: list[tuple[float, int]]) -> None:
    assert recorded(10, given_entries) == by_hand(10, given_entries)


def test_two_entries_a_whole_window_apart_are_not_in_one() -> None:
    assert recorded(60, [(0.0, 1), (60.0, 1)]) == 1
    assert recorded(60, [(0.0, 1), (59.999, 1)]) == 2


def test_old_entries_are_forgotten_and_the_peak_stays() -> None:
    peak = SlidingPeak(1)
    for number in range(50_000):
        peak.add(number / 100)
    peak.add(499.985)  # late, among the newest
    assert peak.peak == 101
    assert len(peak._instants) < 10_000


@settings(max_examples=5)
@given(st.integers())
def test_forgetting_changes_nothing_for_entries_at_most_a_window_late(seed: int) -> None:
    chance = Random(seed)
    given_entries = [(number / 50 - chance.random(), chance.randint(1, 3)) for number in range(10_000)]
    assert recorded(1, given_entries) == by_hand(1, given_entries)
