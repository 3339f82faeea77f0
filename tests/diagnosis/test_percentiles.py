"""Percentiles by nearest rank."""

from hypothesis import given
from hypothesis import strategies as st

from app.diagnosis.domain.percentiles import Percentiles, percentile, percentiles

SECONDS = st.lists(st.floats(0, 1e6), max_size=300)


@given(SECONDS, st.integers(0, 300))
def test_percentiles_are_values_that_occurred_whether_zeros_are_given_or_counted(
    values: list[float], zeros: int
) -> None:
    given_all = percentiles([*values, *[0.0] * zeros])
    assert percentiles(values, len(values) + zeros) == given_all
    assert given_all == tuple(percentile([*values, *[0.0] * zeros], share) for share in (0.5, 0.9, 0.99))
    assert set(given_all) <= {0.0, *values}
    assert given_all.p50 <= given_all.p90 <= given_all.p99


def test_percentiles_of_a_hundred_and_of_none() -> None:
    assert percentiles([float(n) for n in range(1, 101)]) == (50, 90, 99)
    assert percentiles([]) == Percentiles(0.0, 0.0, 0.0)
