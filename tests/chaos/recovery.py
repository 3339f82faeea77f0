"""When sends had their pace again after a fault: pure, from the instants at which the upstream saw them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

WINDOW = 5.0  # seconds over which a pace is measured
PART = 0.9


def back_at(arrivals: Sequence[float], after: float, now: float, pace: float) -> float | None:
    """The first instant from `after` on from which WINDOW seconds of sends held PART of `pace`; None: not yet.

    `arrivals` are sorted; `pace` is in sends per second. Windows begin at `after` and at each send behind it.
    """
    least = PART * pace * WINDOW
    first = bisect_left(arrivals, after)
    for start in (after, *arrivals[first:]):
        if start + WINDOW > now:
            return None
        if bisect_left(arrivals, start + WINDOW) - bisect_left(arrivals, start) >= least:
            return start
    return None
