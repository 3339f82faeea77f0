"""How good estimated starts were: each as it was told at submission, against when the task did start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

_AT_LEAST = (
    1.0  # seconds: shorter waits count as this long, or nothing could be within a factor of two of them
)


@dataclass(frozen=True, slots=True)
class Foretold:
    """A task that started. Instants are Unix seconds; `estimated_at` is None where nobody knew."""

    created_at: float
    estimated_at: float | None
    started_at: float


@dataclass(frozen=True, slots=True)
class Quality:
    """`median_error_share` is of the real wait; `within_twice` the share estimated at half to twice their wait."""

    tasks: int
    unestimated: int
    median_error_seconds: float | None = None
    median_error_share: float | None = None
    within_twice: float | None = None


def quality(starts: Iterable[Foretold]) -> Quality:
    """Sum up."""
    all_of_them = list(starts)
    pairs = [
        (max(0.0, one.estimated_at - one.created_at), max(0.0, one.started_at - one.created_at))
        for one in all_of_them
        if one.estimated_at is not None
    ]
    unknown = len(all_of_them) - len(pairs)
    if not pairs:
        return Quality(len(all_of_them), unknown)
    ratios = [max(told, _AT_LEAST) / max(real, _AT_LEAST) for told, real in pairs]
    return Quality(
        tasks=len(all_of_them),
        unestimated=unknown,
        median_error_seconds=round(median(abs(told - real) for told, real in pairs), 3),
        median_error_share=round(median(abs(told - real) / max(real, _AT_LEAST) for told, real in pairs), 3),
        within_twice=round(sum(0.5 <= ratio <= 2.0 for ratio in ratios) / len(ratios), 3),
    )
