"""Clients' requests per minute, counted in Redis for all API processes together. Without Redis nobody is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.platform.domain.errors import RedisUnreachable
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts


@dataclass(frozen=True, slots=True)
class Rate:
    """A client's use of its requests per minute."""

    allowed: bool
    rpm: int
    left: int
    retry_after: float  # seconds until the next request would be allowed
    full_in: float  # seconds until all `rpm` are available again


class RequestRates(Protocol):
    """Counts clients' requests across all API processes."""

    def take(self, client_id: str, rpm: int) -> Rate | None:
        """Count one request. None: unknown, so the request is allowed. Never raises, never blocks for long."""


class NoRates:
    """Counts nothing."""

    def take(self, client_id: str, rpm: int) -> Rate | None:  # noqa: ARG002
        """Allows everything."""
        return None


_PAUSE = 1.0  # seconds without another attempt after Redis failed


class RedisRates:
    """Implements the RequestRates port. Used by all request threads."""

    def __init__(self, scripts: Scripts, clock: Clock) -> None:
        self._scripts = scripts
        self._clock = clock
        self._silent_until = 0.0

    def take(self, client_id: str, rpm: int) -> Rate | None:
        """Count one request. None: Redis is unreachable, so the request is allowed."""
        if self._clock.monotonic() < self._silent_until:
            return None
        try:
            allowed, left, wait, full = self._scripts.run("request_rate", client_id, rpm)
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE
            return None
        return Rate(bool(allowed), rpm, int(left), int(wait) / 1000, int(full) / 1000)
