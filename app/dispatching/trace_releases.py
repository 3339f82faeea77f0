"""Tell traces of releases, beside the dispatcher's loop: who was released is looked up in the database."""

from __future__ import annotations

import queue
from collections.abc import Sequence

from app.pacing.domain.plan import Release
from app.platform.background_loop import END, BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Tracer
from app.tasks.store.tasks import traces_of

_MOST_WAITING = 200  # turns; when the database is slower, spans are missing, never releases


class TraceReleases:
    """Does nothing, and starts no thread, without a tracer that keeps anything."""

    def __init__(self, database: Database, tracer: Tracer) -> None:
        self._database = database
        self._tracer = tracer
        self._turns: queue.Queue[tuple[Sequence[Release], float] | None] = queue.Queue(_MOST_WAITING)
        self._loop = BackgroundLoop("traces", self._next, expected=(DatabaseUnreachable,))

    def released(self, releases: Sequence[Release], at: float) -> None:
        """Hear of a turn's releases. Never waits."""
        if not self._tracer.enabled:
            return
        self._loop.start()
        try:
            self._turns.put_nowait((releases, at))
        except queue.Full:
            return

    def close(self) -> None:
        """Trace no more."""
        self._loop.stop()
        try:
            self._turns.put_nowait(None)
        except queue.Full:
            pass  # it is at work, and looks afterwards
        self._loop.join()

    def _next(self) -> object:
        turn = self._turns.get()
        if turn is None:
            return END
        self._tell(*turn)
        return None

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
