"""Fixes of requests that upstreams needed before, kept in the database: all workers apply them before sending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from sqlalchemy import Connection

from app.platform.database import Database
from app.platform.domain.errors import Unreachable
from app.platform.ports import Clock
from app.upstreams.domain.request_parameters import ParameterFix
from app.upstreams.store.health import load_fixes, save_fixes

log = structlog.get_logger("penstock.fixes")

KEPT_SECONDS = 7 * 86400.0  # after which a fix is forgotten, and learned again by one refused call
_MOST = 32  # of one upstream and model

Place = tuple[str, str]  # an upstream and its name of a model


class LearnedFixes:
    """What worked, by upstream and model. Threads share it; `_known` is replaced as a whole, under `_lock`."""

    def __init__(
        self, database: Database, clock: Clock, announce: Callable[[Connection, float], object]
    ) -> None:
        """`announce` tells the other processes to `refresh`."""
        self._database = database
        self._clock = clock
        self._announce = announce
        self._lock = threading.Lock()
        self._known: Mapping[Place, tuple[ParameterFix, ...]] = {}

    def of(self, upstream: str, model: str) -> tuple[ParameterFix, ...]:
        """The fixes for requests to this model."""
        return self._known.get((upstream, model), ())

    def learn(self, upstream: str, model: str, fixes: Sequence[ParameterFix]) -> None:
        """Remember fixes that worked. Never raises: what is not stored is learned again."""
        place = (upstream, model)
        with self._lock:
            before = self._known.get(place, ())
            new = [fix for fix in fixes if fix not in before][: _MOST - len(before)]
            self._known = {**self._known, place: (*before, *new)}
        if not new:
            return
        log.info("fix learned", upstream=upstream, model=model, fixes=[fix.words for fix in new])
        try:
            self._database.write(lambda conn: self._store(conn, place, new))
        except Unreachable:
            log.warning("database unreachable, fix not stored")

    def refresh(self) -> None:
        """Read what all have learned. Never raises."""
        try:
            found = self._database.read(lambda conn: load_fixes(conn, self._clock.now() - KEPT_SECONDS))
        except Unreachable:
            log.warning("database unreachable, learned fixes not read")
            return
        with self._lock:
            self._known = {place: tuple(fixes)[:_MOST] for place, fixes in found.items()}

    def _store(self, conn: Connection, place: Place, fixes: Iterable[ParameterFix]) -> None:
        save_fixes(conn, place, fixes, self._clock.now())
        self._announce(conn, self._clock.now())
