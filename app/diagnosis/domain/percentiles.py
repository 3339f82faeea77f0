"""Percentiles by nearest rank: a value that really occurred, never one in between."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple


class Percentiles(NamedTuple):
    """The usual three of some values."""

    p50: float
    p90: float
    p99: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def percentiles(values: Sequence[float], count: int | None = None) -> Percentiles:
    """P50, P90 and P99; zeros of none. `count`: how many there are, if zeros were left out of `values`."""
    ordered = sorted(values)
    zeros = (count or len(ordered)) - len(ordered)
    ranks = [ceil(share * (zeros + len(ordered))) - 1 - zeros for share in (0.5, 0.9, 0.99)]
    return Percentiles(*(ordered[rank] if rank >= 0 and ordered else 0.0 for rank in ranks))
