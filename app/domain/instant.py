"""Instants: Unix seconds inside, RFC 3339 in UTC with milliseconds for people and programs outside."""

from __future__ import annotations

from datetime import UTC, datetime
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
    moment = datetime.fromtimestamp(round(at, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
