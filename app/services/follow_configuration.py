"""Read the configuration again when a reload was asked for: one follower in every process.

What cannot be read, or be taken, is refused with its line and its mend; the old one stays in force.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from app.db.configuration import generation
from app.db.database import Database
from app.domain.errors import Unreachable
from app.settings import ConfigError, Settings

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
    ) -> None:
        self._database = database
        self._current = current
        self._load = load
        self._take = take
        self._seen: int | None = (
            None  # at the first look the file is read in any case: it may have changed since
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="configuration", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Follow no more."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(5)

    def tick(self) -> bool:
        """Look once. Gives back whether another configuration was taken. Raises Unreachable."""
        number = self._database.read(generation)
        if number == self._seen:
            return False
        try:
            settings = self._load()
            changed = settings != self._current
            if changed:
                self._take(settings)
                self._current = settings
                log.info("another configuration is in force", generation=number)
        except ConfigError as error:
            changed = False
            log.error("not reloaded, the configuration in use stays", reason=str(error))
        self._seen = number
        return changed

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
            except Unreachable:
                pass  # it is asked again
            except Exception:
                log.exception("a reload failed, the configuration in use stays")
            self._stop.wait(EVERY_SECONDS)
