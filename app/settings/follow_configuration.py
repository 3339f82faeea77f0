"""Follow reload requests: each process reads the configuration again, or resolves its secrets again.

A configuration that cannot be read or applied is rejected with its line and a hint; the old one stays in force.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy import Connection, select

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.dialects import insert_or
from app.platform.domain.errors import Unreachable
from app.settings import ConfigError, Settings
from app.tasks.store.tables import configuration

_RELOADS, _SECRETS = 1, 2  # the rows there are, one for each count


def generation(conn: Connection) -> int:
    """The number of reloads so far."""
    return asked(conn)[0]


def asked(conn: Connection) -> tuple[int, int]:
    """How often a reload, and how often secrets, were asked for so far."""
    rows = conn.execute(select(configuration.c.id, configuration.c.generation))
    counts = {row.id: row.generation for row in rows}
    return counts.get(_RELOADS, 0), counts.get(_SECRETS, 0)


def ask_reload(conn: Connection, now: float) -> int:
    """Ask every process to read its configuration again, secrets included. Returns the new number."""
    _ask(conn, _RELOADS, now)
    return generation(conn)


def ask_secrets(conn: Connection, now: float) -> None:
    """Ask every process to resolve its secrets again, and nothing else."""
    _ask(conn, _SECRETS, now)


def _ask(conn: Connection, which: int, now: float) -> None:
    row = insert_or(conn, configuration).values(id=which, generation=1, asked_at=now)
    more = {"generation": configuration.c.generation + 1, "asked_at": now}
    conn.execute(row.on_conflict_do_update(index_elements=["id"], set_=more))


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
