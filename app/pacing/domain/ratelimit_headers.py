"""What an upstream's headers reveal of its limits, taken at its word.

Three families are read, names in lower case:

1. `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` as OpenAI and many others send them: limits per minute.
2. The same without an ending, and `ratelimit-{limit,remaining,reset}`: requests, of a window that ends at its reset.
3. The IETF's `RateLimit-Policy` (`"default";q=100;w=60`) with `RateLimit` (`"default";r=50;t=30`).

A reset is `1s`, `6m0s`, seconds, Unix seconds or milliseconds, or a date. What cannot be read reveals nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.platform.domain.times import read_date, seconds_until
from app.settings.domain.routing import WINDOW


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """Limits per minute, and for how many seconds the upstream takes nothing more; None and 0 where unsaid."""

    rpm: float | None = None
    tpm: float | None = None
    empty_for: float = 0.0
    # Seconds that the window of `rpm` lasts at least, where the headers only say when it ends.
    window: float | None = field(default=None, compare=False)

    def after(self, before: HeaderLimits | None) -> HeaderLimits:
        """With the longest window seen so far: what is left of one says little of its length."""
        if before is None or before.window is None or self.window is None:
            return self
        return replace(self, window=max(self.window, before.window))

    @property
    def pace(self) -> float | None:
        """Requests a minute."""
        return self.rpm if self.rpm is None or self.window is None else self.rpm * WINDOW / self.window


NOTHING = HeaderLimits()
_PLAIN = ("x-ratelimit", "ratelimit")
_SHORTEST_WINDOW = 1.0  # seconds
_REMAINING = re.compile(r"(x-)?ratelimit-remaining(-|$)")
_PARAMETER = re.compile(r";\s*([a-z]+)=(\d+(?:\.\d+)?)")


def revealed(headers: Mapping[str, str], now: float | None = None) -> HeaderLimits:
    """Read what an answer's rate-limit headers say.

    An instant counts from the answer's own `date`, else from `now`, Unix seconds.
    """
    if not headers:
        return NOTHING
    policy, state = _parameters(headers, "ratelimit-policy"), _parameters(headers, "ratelimit")
    rpm = _number(headers.get("x-ratelimit-limit-requests"))
    if rpm is None and policy.get("q") and policy.get("w"):
        rpm = policy["q"] / policy["w"] * WINDOW
    tpm = _number(headers.get("x-ratelimit-limit-tokens"))
    base = read_date(headers.get("date", ""))
    base = now if base is None else base
    waits = [_empty_for(headers, "requests", rpm, base), _empty_for(headers, "tokens", tpm, base)]
    window = None
    if rpm is None:
        rpm, window, wait = _plain(headers, base)
        waits.append(wait)
    if state.get("r") == 0 and "t" in state:
        waits.append(state["t"] if rpm is None else min(state["t"], WINDOW / rpm))
    return HeaderLimits(rpm, tpm, min(WINDOW, max(waits)), window)


def used_up_in(headers: Mapping[str, str]) -> list[str]:
    """The names of the headers by which nothing is left."""
    remaining = [name for name in sorted(headers) if _REMAINING.match(name) and _number(headers[name]) == 0]
    return remaining + ["ratelimit"] * (_parameters(headers, "ratelimit").get("r") == 0)


def _plain(headers: Mapping[str, str], base: float | None) -> tuple[float | None, float | None, float]:
    """The limit, the seconds of its window and those for which nothing is left, from headers without an ending."""
    family = next(
        (name for name in _PLAIN if f"{name}-limit" in headers or f"{name}-remaining" in headers), None
    )
    if family is None:
        return None, None, 0.0
    limit, remaining = (_number(headers.get(f"{family}-{what}")) for what in ("limit", "remaining"))
    reset = seconds_until(headers.get(f"{family}-reset", ""), base)
    used_up = remaining is not None and remaining < 1
    wait = (WINDOW / limit if limit else 0.0) if reset is None else reset
    window = None if not reset else min(WINDOW, max(_SHORTEST_WINDOW, reset))
    return limit or None, window if limit else None, wait if used_up else 0.0


def _empty_for(headers: Mapping[str, str], what: str, limit: float | None, base: float | None) -> float:
    """A bucket with nothing left: until the next unit. `reset` says when it is full, which is then or later."""
    remaining = _number(headers.get(f"x-ratelimit-remaining-{what}"))
    if remaining is None or remaining >= 1 or not limit:
        return 0.0
    reset = seconds_until(headers.get(f"x-ratelimit-reset-{what}", ""), base)
    return WINDOW / limit if reset is None else min(reset, WINDOW / limit)


def _number(text: str | None) -> float | None:
    """A positive count, `remaining` also 0; a list such as `100, 100;w=60` by its first part."""
    found = re.match(r"\s*(\d+(?:\.\d+)?)", text or "")
    return float(found[1]) if found else None


def _parameters(headers: Mapping[str, str], name: str) -> dict[str, float]:
    return {key: float(value) for key, value in _PARAMETER.findall(headers.get(name, "").lower())}
