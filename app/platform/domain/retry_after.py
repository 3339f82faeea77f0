"""How long an upstream asks us to wait: `retry-after-ms`, or `Retry-After` as seconds or as an HTTP date."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

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
