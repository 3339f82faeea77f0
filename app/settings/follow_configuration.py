"""Read the configuration again when a reload was asked for, and secrets when that was: one follower in every process.

What cannot be read, or be taken, is refused with its line and its mend; the old one stays in force.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import Unreachable
from app.settings import ConfigError, Settings
from app.settings.store.configuration import asked

log = structlog.get_logger("penstock.configuration")

EVERY_SECONDS = 1.0


class FollowConfiguration:
    """Its thread asks the database each second. `take` gets what has changed, and may raise ConfigError."""

    def __init__(
        self,
        database: Database,
        current: Settings,
        load: Callable[[], Settings],
        take: Callable[[Settings], object],
        refresh: Callable[[], object] = lambda: None,
    ) -> None:
        """`refresh` resolves secrets again: what a reference leads to may change while the reference stays."""
        self._database = database
        self._current = current
        self._load = load
        self._take = take
        self._refresh = refresh
        # At the first look all is read in any case: it may have changed since.
        self._seen: tuple[int, int] | None = None
        self._loop = BackgroundLoop(
            "configuration",
            self.tick,
            every=EVERY_SECONDS,
            expected=(Unreachable,),
            backoff=(EVERY_SECONDS, EVERY_SECONDS),
        )

    def start(self) -> None:
        """Begin to follow."""
        self._loop.start()

    def close(self) -> None:
        """Follow no more."""
        self._loop.close()

    def tick(self) -> bool:
        """Look once. Returns whether another configuration was taken. Raises Unreachable."""
        number = self._database.read(asked)
        if number == self._seen:
            return False
        changed = (self._seen is None or number[0] != self._seen[0]) and self._reload(number[0])
        self._refresh()
        self._seen = number
        return changed

    def _reload(self, number: int) -> bool:
        """Whether another configuration was taken."""
        try:
            settings = self._load()
            if settings == self._current:
                return False
            self._take(settings)
        except ConfigError as error:
            log.error("not reloaded, the configuration in use stays", reason=str(error))
            return False
        self._current = settings
        log.info("another configuration is in force", generation=number)
        return True
