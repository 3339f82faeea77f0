"""A quota: told figures, and the buckets that keep within them.

`rpm = N` promises at most N sends in any 60 s. Releases are paced by a token bucket of `size` and `rate`; between
release and send up to JITTER seconds may pass, so a window of 60 s of sends holds the releases of 60 s + JITTER at
most: `size + rate * (60 + JITTER) < N + 1` keeps the promise, since a window holds whole calls only. A call that takes
longer is counted anew when it is sent (app/pacing/store/permits.py).
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 60.0  # seconds: what "per minute" is counted over
JITTER = (
    0.25  # seconds between a release and its send that are allowed for; measured 223 ms for a burst of 200
)

TICK = 0.02  # seconds by which the dispatcher may be late without losing pace, as far as the burst allows
_STRICTLY = 1 - 1e-6  # the bound is strict


@dataclass(frozen=True, slots=True)
class ConfiguredQuota:
    """What an account or key may take, as told. A figure left out is None: without limit until it is learned."""

    id: str
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None
    burst: float | None = None  # calls at once after a rest; default one second's worth, at least 1
    learn: bool = True  # False: what is not told has no limit, even where it is refused


@dataclass(frozen=True, slots=True)
class Bucket:
    """`size` units at most, refilled by `rate` a second."""

    size: float
    rate: float

    def filled(self, level: float, seconds: float) -> float:
        """The level after `seconds` of refill."""
        return min(self.size, level + max(0.0, seconds) * self.rate)


def request_bucket(quota: ConfiguredQuota) -> Bucket | None:
    """The bucket that keeps `rpm`, or None when none is told."""
    if quota.rpm is None:
        return None
    per_second = quota.rpm / WINDOW
    burst = min(quota.rpm, quota.burst if quota.burst is not None else max(1.0, per_second))
    size = max(burst - per_second * JITTER, min(burst, 1.0 + per_second * TICK))
    return Bucket(size, (quota.rpm + 1 - size) / (WINDOW + JITTER) * _STRICTLY)


def token_bucket(quota: ConfiguredQuota) -> Bucket | None:
    """The bucket that keeps `tpm`: one second's worth, or as many seconds' as the burst of requests is."""
    if quota.tpm is None:
        return None
    seconds = quota.burst / (quota.rpm / WINDOW) if quota.burst and quota.rpm else 1.0
    size = min(quota.tpm / 2, max(1.0, quota.tpm / WINDOW * seconds))
    return Bucket(size, (quota.tpm - size) / (WINDOW + JITTER))


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """A quota's buckets and cap in force; None where it has no limit."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaState:
    """A quota at one instant of gate time: levels are refilled up to that instant."""

    requests: Bucket | None = None
    level: float = 0.0
    tokens: Bucket | None = None
    token_level: float = 0.0
    cap: int | None = None
    flight: int = 0
    braked_until: float = 0.0
    reason: str = ""
    judged: str = (
        ""  # what lowers its limits now, where it is neither configured nor learned: see governor.py
    )

    def opens_in(self, estimate: float, now: float) -> float:
        """Seconds until one call of `estimate` tokens would pass; 0 is now, infinite when only an end can free it.

        A call larger than the token bucket passes when the bucket is full (and leaves a debt).
        """
        if self.cap is not None and self.flight >= self.cap:
            return float("inf")
        wait = max(0.0, self.braked_until - now)
        if self.requests is not None and self.level < 1.0:
            wait = max(wait, _refill(1.0 - self.level, self.requests.rate))
        return max(wait, self.tokens_in(estimate))

    def tokens_in(self, estimate: float) -> float:
        """Seconds until the token bucket holds enough for `estimate`."""
        if self.tokens is None:
            return 0.0
        missing = min(estimate, self.tokens.size) - self.token_level
        return _refill(missing, self.tokens.rate) if missing > 0 else 0.0


def _refill(missing: float, rate: float) -> float:
    return missing / rate if rate > 0 else float("inf")
