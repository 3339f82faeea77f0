"""Instants and durations: seconds inside; RFC 3339, `90s`, `24h` and Retry-After outside."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import overload

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


_EARLIEST, _LATEST = 0.0, 253402300799.0  # 1970 to 9999


@overload
def to_rfc3339(at: float) -> str: ...
@overload
def to_rfc3339(at: None) -> None: ...
def to_rfc3339(at: float | None) -> str | None:
    """Write Unix seconds as `2026-11-21T06:01:02.345Z`."""
    if at is None:
        return None
    rounded = round(at, 3)
    second = math.floor(rounded)
    return f"{_to_the_second(second)}.{round((rounded - second) * 1000):03d}Z"


@lru_cache(1024)  # much of what is shown happened in the same few seconds
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def parse_instant(value: float | str) -> float:
    """Unix seconds of a number of them or of an RFC 3339 time with its offset. Raises ValueError otherwise."""
    at = _from_text(value) if isinstance(value, str) else float(value)
    if isinstance(value, bool) or not _EARLIEST <= at <= _LATEST:
        raise ValueError("an instant is Unix seconds, or such as 2026-11-21T06:00:00Z")
    return at


def _from_text(value: str) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("not an RFC 3339 time, such as 2026-11-21T06:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("this time has no offset: end it with Z or, for example, +08:00")
    return moment.timestamp()


LONGEST_SECONDS = 3600.0  # whatever is asked: a wrong header must not close a quota for good


def retry_after_seconds(
    headers: Mapping[str, str], now: float, longest: float = LONGEST_SECONDS
) -> float | None:
    """Seconds to wait, above 0 up to `longest`; None when the headers ask for nothing readable, or for no wait.

    A date counts from the answer's own `Date`, so that the upstream's clock may differ from ours; without
    one it counts from `now`, Unix seconds. Header names are in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None and milliseconds > 0:
        return min(milliseconds / 1000, longest)
    asked = headers.get("retry-after")
    seconds = _number(asked)
    if seconds is None:
        until, base = _instant(asked), _instant(headers.get("date"))
        seconds = None if until is None else until - (now if base is None else base)
    return min(seconds, longest) if seconds is not None and seconds > 0 else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None


def _instant(text: str | None) -> float | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
