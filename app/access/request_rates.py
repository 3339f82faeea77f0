"""Requests per minute, as access control needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.platform.domain.errors import RedisUnreachable
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts


@dataclass(frozen=True, slots=True)
class Rate:
    """How a client stands with its requests per minute."""

    allowed: bool
    rpm: int
    left: int
    retry_after: float  # seconds until the next one would be let pass
    full_in: float  # seconds until all of them are there again


class RequestRates(Protocol):
    """Counts clients' requests, over all API processes."""

    def take(self, client_id: str, rpm: int) -> Rate | None:
        """Count one request. None: nobody knows, and it is let pass. Never raises, never takes long."""


class NoRates:
    """Counts nothing."""

    def take(self, client_id: str, rpm: int) -> Rate | None:  # noqa: ARG002
        """Lets everything pass."""
        return None


_PAUSE = 1.0  # seconds in which Redis is not asked again after it failed


class RedisRates:
    """Implements the RequestRates port."""

    def __init__(self, scripts: Scripts, clock: Clock) -> None:
        self._scripts = scripts
        self._clock = clock
        self._silent_until = 0.0

    def take(self, client_id: str, rpm: int) -> Rate | None:
        """Count one request. None: Redis does not answer, so that it is let pass."""
        if self._clock.monotonic() < self._silent_until:
            return None
        try:
            allowed, left, wait, full = self._scripts.run("request_rate", client_id, rpm)
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE
            return None
        return Rate(bool(allowed), rpm, int(left), int(wait) / 1000, int(full) / 1000)
