"""Names of the backlog queues that Redis holds, for those who look at them."""

from __future__ import annotations

from typing import cast

from app.platform.domain.errors import RedisUnreachable
from app.platform.redis_scripts import Scripts

MOST = 10_000


class BacklogQueues:
    """Asked from Celery's main loop: it needs a client with a short timeout."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._last: list[str] = []

    def names(self) -> list[str]:
        """All of them in order of their names, at most 10,000; as last seen when Redis does not answer."""
        try:
            found = cast("list[bytes]", self._scripts.command("HKEYS", "penstock:queues"))
        except RedisUnreachable:
            return self._last
        self._last = sorted(name.decode() for name in found)[:MOST]
        return self._last
