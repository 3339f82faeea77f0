"""What Flower says is waiting, from its own HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import urllib3

from app.cli.profile import Profile
from app.platform.background_loop import BackgroundLoop
from app.platform.domain.names import BACKLOG, KEY

EVERY_SECONDS = 0.5


@dataclass(slots=True)
class FlowerBacklog:
    """Reads the queues' lengths in a thread of its own, for as long as `with` lasts."""

    profile: Profile
    lengths: Mapping[str, int] = field(default_factory=dict)  # as last seen, by queue
    peak: int = 0  # the most seen waiting in all backlog queues together
    _loop: BackgroundLoop = field(init=False)
    _pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def __post_init__(self) -> None:
        self._loop = BackgroundLoop(
            "backlog", self._read, every=EVERY_SECONDS, at_once=False, backoff=(EVERY_SECONDS, EVERY_SECONDS)
        )

    @property
    def waiting(self) -> int:
        """Messages in backlog queues, as last seen."""
        return sum(length for queue, length in self.lengths.items() if queue.startswith(BACKLOG))

    @property
    def released(self) -> int:
        """Messages in key queues, as last seen: near zero when pacing is exact."""
        return sum(length for queue, length in self.lengths.items() if queue.startswith(KEY))

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.close(10)
        self._pool.clear()

    def look(self, pool: urllib3.PoolManager) -> None:
        """Ask once. Raises urllib3's HTTPError, ValueError."""
        headers = urllib3.make_headers(basic_auth=self.profile.flower_auth)
        answer = pool.request(
            "GET", f"{self.profile.flower_url}/api/queues/length", headers=headers, timeout=5.0
        )
        queues = answer.json()["active_queues"]
        self.lengths = {queue["name"]: int(queue["messages"]) for queue in queues}
        self.peak = max(self.peak, self.waiting)

    def _read(self) -> None:
        try:
            self.look(self._pool)
        except (urllib3.exceptions.HTTPError, ValueError, KeyError):
            return  # no answer now: the next one will do
