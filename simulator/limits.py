"""The limits of the simulated upstream: token buckets and concurrency caps, taken all or nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Reason = Literal["rpm", "tpm", "concurrency"]
RetryAfterStyle = Literal["none", "seconds", "date", "ms"]


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a key, an account or the whole upstream.

    `key` and `account` name whose limit it is (`*`: each one for itself; neither: all callers together);
    `model` is a model's name, `*` for all models together or `each` for every model by itself.
    `rpm` and `tpm` are token buckets: `rate x burst_seconds` at most (never below 1), filled at the rate.
    `retry_after` is how a 429 says when to retry: not at all, in seconds, as a date, or by
    `retry-after-ms`.
    """

    key: str | None = None
    account: str | None = None
    model: str = "*"
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None
    burst_seconds: float = 2.0
    retry_after: RetryAfterStyle = "seconds"

    def __post_init__(self) -> None:
        """Reject a limit of both a key and an account, and values that would never admit anything."""
        if self.key is not None and self.account is not None:
            raise ValueError("a limit is of a key or of an account, not of both")
        if any(rate is not None and rate <= 0 for rate in (self.rpm, self.tpm)):
            raise ValueError("rpm and tpm must be above 0")
        if self.burst_seconds < 0 or (self.concurrency is not None and self.concurrency < 0):
            raise ValueError("burst_seconds and concurrency must not be negative")


class SimulatedCaller(NamedTuple):
    """A call's key, account and model."""

    key: str
    account: str
    model: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call over a limit: the limit, its kind and the seconds until it could pass."""

    reason: Reason
    limit: Limit
    retry_after_seconds: float


@dataclass(frozen=True, slots=True)
class LimitState:
    """A bucket for the `x-ratelimit-*` headers; `reset_seconds` is the time until it is full."""

    limit: int
    remaining: int
    reset_seconds: float


class TokenBucket:
    """A bucket that starts full. Instants may come slightly out of order: time never runs backwards here."""

    __slots__ = ("_at", "_level", "capacity", "rate")

    def __init__(self, per_minute: float, burst_seconds: float, now: float) -> None:
        """`now` is a time of the clock used in all later calls."""
        self.rate = per_minute / 60
        self.capacity = max(1.0, self.rate * burst_seconds)
        self._level = self.capacity
        self._at = now

    def level(self, now: float) -> float:
        """The bucket's level; negative while in debt."""
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def wait_seconds(self, amount: float, now: float) -> float:
        """Seconds until `amount` may pass, 0 when it may now.

        An amount above the bucket's size passes when it is full and leaves a debt.
        """
        return max(0.0, (min(amount, self.capacity) - self.level(now)) / self.rate)

    def has(self, amount: float, now: float) -> bool:
        """Whether `amount` may pass now."""
        # Tolerates rounding of refills, so that 10 per second admits the tenth call.
        return self.level(now) >= min(amount, self.capacity) - 1e-9

    def take(self, amount: float, now: float) -> None:
        """Draw `amount`, whatever the level."""
        self._level = self.level(now) - amount

    def state(self, per_minute: float, now: float) -> LimitState:
        """The bucket for the rate-limit headers."""
        level = self.level(now)
        return LimitState(round(per_minute), max(0, math.floor(level)), (self.capacity - level) / self.rate)


class LimitMeter:
    """The state of one limit for one owner."""

    __slots__ = ("in_flight", "limit", "requests", "tokens")

    def __init__(self, limit: Limit, now: float) -> None:
        """A meter with full buckets and nothing in flight."""
        self.limit = limit
        self.requests = TokenBucket(limit.rpm, limit.burst_seconds, now) if limit.rpm else None
        self.tokens = TokenBucket(limit.tpm, limit.burst_seconds, now) if limit.tpm else None
        self.in_flight = 0

    def refusal(self, tokens: int, now: float) -> Refusal | None:
        """Why a call with these tokens may not pass, or None."""
        limit = self.limit
        if limit.concurrency is not None and self.in_flight >= limit.concurrency:
            return Refusal("concurrency", limit, 1.0)
        if self.requests is not None and not self.requests.has(1, now):
            return Refusal("rpm", limit, self.requests.wait_seconds(1, now))
        if self.tokens is not None and not self.tokens.has(tokens, now):
            return Refusal("tpm", limit, self.tokens.wait_seconds(tokens, now))
        return None

    def take(self, tokens: int, now: float) -> None:
        """Count an admitted call."""
        self.in_flight += 1
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)


class Gate:
    """All limits together. A call passes every matching limit or takes nothing from any."""

    def __init__(self, limits: Iterable[Limit], now: float) -> None:
        """Buckets start full at `now`, an instant of the clock that later instants come from."""
        self._limits = tuple(dict.fromkeys(limits))
        self._started = now
        self._meters: dict[tuple[Limit, str, str], LimitMeter] = {}
        self._matching: dict[SimulatedCaller, list[LimitMeter]] = {}
        self._live: Counter[SimulatedCaller] = Counter()

    def admit(self, caller: SimulatedCaller, tokens: int, now: float) -> Refusal | None:
        """Count a call in and return None, or return why not and change nothing."""
        meters = self._meters_of(caller)
        for meter in meters:
            refusal = meter.refusal(tokens, now)
            if refusal is not None:
                return refusal
        for meter in meters:
            meter.take(tokens, now)
        self._live[caller] += 1
        return None

    def release(self, caller: SimulatedCaller) -> None:
        """Count an admitted call out."""
        self._live[caller] -= 1
        for meter in self._meters_of(caller):
            meter.in_flight -= 1

    def replace(self, limits: Iterable[Limit], now: float) -> None:
        """Replace the limits. Unchanged ones keep their state; calls in flight stay counted."""
        self._limits = tuple(dict.fromkeys(limits))
        self._started = now
        self._meters = {at: meter for at, meter in self._meters.items() if at[0] in self._limits}
        self._matching.clear()

    def state(self, caller: SimulatedCaller, now: float) -> tuple[LimitState | None, LimitState | None]:
        """The tightest request and token buckets that match a call."""
        meters = self._meters_of(caller)
        requests = [m.requests.state(m.limit.rpm or 0, now) for m in meters if m.requests]
        tokens = [m.tokens.state(m.limit.tpm or 0, now) for m in meters if m.tokens]
        return _tightest(requests), _tightest(tokens)

    def _meters_of(self, caller: SimulatedCaller) -> list[LimitMeter]:
        meters = self._matching.get(caller)
        if meters is None:
            places = (_place(limit, caller) for limit in self._limits)
            meters = [self._meter(place) for place in places if place is not None]
            self._matching[caller] = meters
        return meters

    def _meter(self, place: tuple[Limit, str, str]) -> LimitMeter:
        meter = self._meters.get(place)
        if meter is None:
            meter = self._meters[place] = LimitMeter(place[0], self._started)
            meter.in_flight = sum(n for caller, n in self._live.items() if _place(place[0], caller) == place)
        return meter


def _place(limit: Limit, caller: SimulatedCaller) -> tuple[Limit, str, str] | None:
    """The meter of a limit that counts a call, (limit, owner, model); None if none."""
    owner = ""
    for wanted, actual in ((limit.key, caller.key), (limit.account, caller.account)):
        if wanted is not None:
            if wanted not in ("*", actual):
                return None
            owner = actual
    if limit.model not in ("*", "each", caller.model):
        return None
    return limit, owner, caller.model if limit.model == "each" else limit.model


def _tightest(states: list[LimitState]) -> LimitState | None:
    return min(states, key=lambda state: state.remaining, default=None)
