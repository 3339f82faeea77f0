"""Instants: Unix seconds inside, RFC 3339 in UTC with milliseconds for people and programs outside."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import overload

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
