"""Tell traces of releases, beside the dispatcher's loop: who was released is looked up in the database."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import structlog

from app.db.database import Database
from app.db.traces import traces_of
from app.domain.errors import DatabaseUnreachable
from app.domain.plan import Release
from app.services.ports import Tracer

_MOST_WAITING = 200  # turns; when the database is slower, spans are missing, never releases
log = structlog.get_logger("penstock.dispatcher")


class TraceReleases:
    """Does nothing, and starts no thread, without a tracer that keeps anything."""

    def __init__(self, database: Database, tracer: Tracer) -> None:
        self._database = database
        self._tracer = tracer
        self._turns: queue.Queue[tuple[Sequence[Release], float]] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    def released(self, releases: Sequence[Release], at: float) -> None:
        """Hear of a turn's releases. Never waits."""
        if not self._tracer.enabled:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
            self._thread.start()
        try:
            self._turns.put_nowait((releases, at))
        except queue.Full:
            return

    def _run(self) -> None:
        while True:
            releases, at = self._turns.get()
            try:
                self._tell(releases, at)
            except DatabaseUnreachable:
                continue
            except Exception:
                log.exception("releases could not be traced")

    def _tell(self, releases: Sequence[Release], at: float) -> None:
        known = self._database.read(lambda conn: traces_of(conn, [one.task_id for one in releases]))
        for one in releases:
            if (found := known.get(one.task_id)) is not None:
                self._tracer.past(
                    "release",
                    found.trace,
                    min(found.ready_at, at),
                    at,
                    task=one.task_id,
                    key=one.route.key,
                    model=one.route.upstream_model,
                )
