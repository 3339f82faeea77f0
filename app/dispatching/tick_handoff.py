"""What passes between the tick, which waits for Redis alone, and threads that wait for the database."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.access.store import clients
from app.pacing.domain.fairness import ClientShare
from app.pacing.domain.plan import Release
from app.pacing.domain.rate_controller import RateController
from app.pacing.store.leader_state import load_learned, save_learned
from app.platform.background_loop import END, BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock, Tracer
from app.tasks.domain.task import Priority
from app.tasks.ports import BacklogPublisher
from app.tasks.store import feeding
from app.tasks.store.tasks import traces_of


class RequeueTasks:
    """Tasks whose messages are gone from Redis, kept until the database has them queued again.

    The tick only remembers them: a database that does not answer must not cost a leader its lead. A lock guards them.
    Threads: `remember`: tick; `flush`: refeeder, tick.
    """

    def __init__(self, database: Database, publisher: BacklogPublisher) -> None:
        self._database = database
        self._publisher = publisher
        self._lock = threading.Lock()
        self._gone: set[str] = set()

    def remember(self, task_ids: Iterable[str]) -> None:
        """Let the next `flush` queue these again. Does not wait."""
        if ids := set(task_ids):
            with self._lock:
                self._gone |= ids

    def flush(self) -> None:
        """Queue them again. Raises DatabaseUnreachable, and keeps them then."""
        with self._lock:
            gone, self._gone = self._gone, set()
        if not gone:
            return
        try:
            self._database.write(lambda conn: feeding.mark_unqueued(conn, sorted(gone)))
        except BaseException:
            self.remember(gone)
            raise
        self._publisher.wake()


class ClientShares:
    """Clients' shares of the upstreams' capacity, as last read from the database.

    The mapping is exchanged as a whole and never changed, so it needs no lock.
    Threads: `known`: tick; `look`: shares, tick.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: Mapping[str, ClientShare] = {}

    def known(self) -> Mapping[str, ClientShare]:
        """By client."""
        return self._known

    def look(self) -> None:
        """Read them again. Raises DatabaseUnreachable; the last ones stay in force then."""
        rows = self._database.read(clients.list_clients)
        self._known = {r.id: ClientShare(r.weight, Priority(r.granted_priority).step) for r in rows}


_MOST_WAITING = 200  # ticks; when the database is slower, spans are missing, never releases


class TraceReleases:
    """Writes trace spans of releases, looking up their tasks in the database. Without a tracer it starts no thread.

    A bounded queue hands releases to its own thread, `traces`.
    Threads: `released`: tick; `close`: closing.
    """

    def __init__(self, database: Database, tracer: Tracer) -> None:
        self._database = database
        self._tracer = tracer
        self._releases: queue.Queue[tuple[Sequence[Release], float] | None] = queue.Queue(_MOST_WAITING)
        self._loop = BackgroundLoop("traces", self._next, expected=(DatabaseUnreachable,))

    def released(self, releases: Sequence[Release], at: float) -> None:
        """Record a tick's releases. Never waits."""
        if not self._tracer.enabled:
            return
        self._loop.start()
        try:
            self._releases.put_nowait((releases, at))
        except queue.Full:
            return

    def close(self) -> None:
        """Stop tracing."""
        self._loop.stop()
        try:
            self._releases.put_nowait(None)
        except queue.Full:
            pass  # it is busy, and sees the stop afterwards
        self._loop.join()

    def _next(self) -> object:
        batch = self._releases.get()
        if batch is None:
            return END
        self._trace(*batch)
        return None

    def _trace(self, releases: Sequence[Release], at: float) -> None:
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


class PersistEstimates:
    """Stores estimated limits, so that the next leader starts from them.

    The reconciler thread (`healer`) owns it; the leader's thread uses it before and after that thread runs jobs.
    Threads: `recall`: tick; `keep`: healer, tick.
    """

    def __init__(self, database: Database, estimates: RateController, clock: Clock) -> None:
        self._database = database
        self._estimates = estimates
        self._clock = clock
        self._written: Mapping[str, Mapping[str, Any]] = {}

    def recall(self) -> None:
        """Restore what an earlier leader stored. Raises DatabaseUnreachable."""
        self._estimates.recall(self._database.read(load_learned))

    def keep(self) -> int:
        """Store what has changed. Returns how many quotas. Raises DatabaseUnreachable."""
        facts = self._estimates.facts()
        changed = {name: kept for name, kept in facts.items() if self._written.get(name) != kept}
        if changed:
            now = self._clock.now()
            self._database.write(lambda conn: save_learned(conn, changed, now))
            self._written = {**self._written, **changed}
        return len(changed)
