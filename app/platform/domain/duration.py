"""Durations as people write them."""

from __future__ import annotations

import math
import re

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
_UNITS = {"s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY}
_WRITTEN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)")


def parse_duration(value: float | str) -> float:
    """Seconds of `90`, `"90"`, `"90s"`, `"10m"`, `"24h"` or `"7d"`. Raises ValueError for anything else."""
    if isinstance(value, str):
        match = _WRITTEN.fullmatch(value.strip())
        if match is None:
            raise ValueError('a duration is a number of seconds, or such as "90s", "10m", "24h", "7d"')
        return float(match[1]) * _UNITS[match[2] or "s"]
    if isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError("a duration is a number of seconds that is not negative")
    return float(value)
