"""What an upstream's headers reveal of its limits, taken at its word.

Two families are read, names in lower case: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` as OpenAI and many
others send them (limits per minute; reset as `1s`, `6m0s` or seconds), and the IETF's `RateLimit-Policy`
(`"default";q=100;w=60`) with `RateLimit` (`"default";r=50;t=30`). What cannot be read reveals nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.quota import WINDOW


@dataclass(frozen=True, slots=True)
class Revealed:
    """Limits per minute, and for how many seconds the upstream takes nothing more; None and 0 where unsaid."""

    rpm: float | None = None
    tpm: float | None = None
    empty_for: float = 0.0


NOTHING = Revealed()
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_PARAMETER = re.compile(r";\s*([a-z]+)=(\d+(?:\.\d+)?)")


def revealed(headers: Mapping[str, str]) -> Revealed:
    """Read what an answer's rate-limit headers say."""
    if not headers:
        return NOTHING
    policy, state = _parameters(headers, "ratelimit-policy"), _parameters(headers, "ratelimit")
    rpm = _number(headers.get("x-ratelimit-limit-requests"))
    if rpm is None and policy.get("q") and policy.get("w"):
        rpm = policy["q"] / policy["w"] * WINDOW
    tpm = _number(headers.get("x-ratelimit-limit-tokens"))
    waits = [_empty_for(headers, "requests", rpm), _empty_for(headers, "tokens", tpm)]
    if state.get("r") == 0 and "t" in state:
        waits.append(state["t"] if rpm is None else min(state["t"], WINDOW / rpm))
    return Revealed(rpm, tpm, min(WINDOW, max(waits)))


def _empty_for(headers: Mapping[str, str], what: str, limit: float | None) -> float:
    """A bucket with nothing left: until the next unit. `reset` tells when it is full, which is later or then."""
    remaining = _number(headers.get(f"x-ratelimit-remaining-{what}"))
    if remaining is None or remaining >= 1 or not limit:
        return 0.0
    reset = duration(headers.get(f"x-ratelimit-reset-{what}", ""))
    return WINDOW / limit if reset is None else min(reset, WINDOW / limit)


def duration(text: str) -> float | None:
    """Seconds of `1s`, `6m0s`, `250ms`, `59.9`; None for anything else."""
    text = text.strip().lower()
    parts = _PARTS.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    """A positive count, `remaining` also 0; a list such as `100, 100;w=60` by its first part."""
    found = re.match(r"\s*(\d+(?:\.\d+)?)", text or "")
    return float(found[1]) if found else None


def _parameters(headers: Mapping[str, str], name: str) -> dict[str, float]:
    return {key: float(value) for key, value in _PARAMETER.findall(headers.get(name, "").lower())}
