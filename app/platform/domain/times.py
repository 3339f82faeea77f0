"""Instants and durations: seconds inside; RFC 3339, `90s`, `24h` and Retry-After outside."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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


RETRY_AFTER = ("retry-after-ms", "retry-after")


def retry_after_seconds(
    headers: Mapping[str, str],
    now: float,
    longest: float = LONGEST_SECONDS,
    names: Sequence[str] = RETRY_AFTER,
) -> float | None:
    """Seconds to wait, above 0 up to `longest`; None when the headers ask for nothing readable, or for no wait.

    A date counts from the answer's own `Date`, so that the upstream's clock may differ from ours; without
    one it counts from `now`, Unix seconds. Header names are in lower case; milliseconds where one ends in -ms.
    """
    base = read_date(headers.get("date", ""))
    for name in names:
        asked = headers.get(name, "")
        seconds = read_duration(asked)
        if seconds is None:
            seconds = seconds_until(asked, now if base is None else base)
        if seconds is not None and seconds > 0:
            return min(seconds / 1000 if name.endswith("-ms") else seconds, longest)
    return None


_WORDS = {
    "ms msec msecs millisecond milliseconds 毫秒": 0.001,
    "s sec secs second seconds 秒 秒钟 秒鐘": 1.0,
    "m min mins minute minutes 分 分钟 分鐘": MINUTE,
    "h hr hrs hour hours 小时 小時": HOUR,
    "d day days 天": DAY,
}
_SIZES = {word: size for words, size in _WORDS.items() for word in words.split()}
_NUMBER = r"\d{1,15}(?:\.\d{1,9})?"
_UNIT = f"(?:{'|'.join(sorted(_SIZES, key=len, reverse=True))})(?![a-z])"
# A duration as people and programs write it, in lower case, to be searched for in a text.
DURATION = rf"(?:(?:{_NUMBER}\s*{_UNIT}(?:[\s,]|and)*)+|{_NUMBER}(?![\w.]))"
_DURATION, _DURATION_PART = re.compile(DURATION), re.compile(rf"({_NUMBER})\s*({_UNIT})")


def read_duration(text: str) -> float | None:
    """Seconds of `8s`, `1m3.5s`, `250ms`, `2 minutes and 5 seconds`, `8 秒` or `59.9`; None for anything else."""
    text = text.strip().lower()
    if _DURATION.fullmatch(text) is None:
        return None
    parts = _DURATION_PART.findall(text)
    return sum(float(number) * _SIZES[unit] for number, unit in parts) if parts else float(text)


_UNIX, _UNIX_MILLISECONDS = 1e8, 1e11  # from where on a number is an instant: no wait lasts three years


def seconds_until(text: str, base: float | None) -> float | None:
    """Seconds of a duration, or from `base` to an instant: a date, Unix seconds or milliseconds. 0 for the past.

    None for what cannot be read.
    """
    seconds, until = read_duration(text), read_date(text)
    if seconds is not None and seconds >= _UNIX:
        until = seconds / 1000 if seconds >= _UNIX_MILLISECONDS else seconds
    elif seconds is not None:
        return seconds
    return None if until is None or base is None else max(0.0, until - base)


def read_date(text: str) -> float | None:
    """Unix seconds of a date, as HTTP or ISO 8601 write it, in UTC unless it says otherwise."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(text.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    return None
