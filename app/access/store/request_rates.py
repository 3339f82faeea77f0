"""Clients' requests per minute, counted in Redis for all API processes together. Without Redis nobody is refused."""

from __future__ import annotations

from app.access.ports import Rate
from app.platform.domain.errors import RedisUnreachable
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts

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
