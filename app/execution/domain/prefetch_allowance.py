"""How much may be released to a worker ahead of what it holds.

What is released must be redeemed within 2 s, or it is taken back. A worker starts several hundred calls a second, on
a busy machine a few dozen; given 1,000 at a stroke it would see most of them grow stale and come again.
"""

from __future__ import annotations

LEAST = 25  # also what an idle worker asks for: more follows within a twentieth of a second
MOST = 300
_SHARE = 0.75  # seconds' worth: waits stay well below the 2 s


def prefetch_allowance(started: int, seconds: float) -> int:
    """Calls to ask for beyond those held, after so many were `started` in the last `seconds`."""
    rate = started / seconds if seconds > 0 else 0.0
    return round(min(MOST, max(LEAST, rate * _SHARE)))
