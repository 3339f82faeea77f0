"""How a leader begins: it is elected, and rebuilds what Redis lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.dispatching import store
from app.execution.store import workers
from app.pacing.ports import RunningCall
from app.pacing.store.pacing_store import RedisPacingStore
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.domain.routing import Route, Topology
from app.tasks.store import feeding

SILENCE = (
    2.0  # seconds without a heartbeat, on the candidate's own clock, after which a leader counts as gone
)


class LeaderElection:
    """Watches the leader's heartbeat."""

    def __init__(self, seat: RedisPacingStore, clock: Clock) -> None:
        self._seat = seat
        self._clock = clock
        self._seen: tuple[str, str] | None = None
        self._since = 0.0

    def try_lead(self, term: str) -> bool:
        """Take the lead under `term` if nobody leads, or the leader's heartbeat has not changed for 2 s.

        Raises RedisUnreachable.
        """
        present = self._seat.leader()
        if present != self._seen:
            self._seen, self._since = present, self._clock.monotonic()
        vacant = not present[0]
        if not vacant and self._clock.monotonic() - self._since < SILENCE:
            return False
        self._seen = None
        return self._seat.take_lead(term, present[0])


SENT_WITHIN = 3.0  # seconds after which nothing redeemed before can still be sent
_STEP = 0.2  # seconds between heartbeats meanwhile
_CHUNK = 5000


def begin_generation(
    generations: RedisPacingStore,
    database: Database,
    topology: Topology,
    clock: Clock,
    *,
    generation: str,
    upstreams: Mapping[str, str],
    configure: Callable[[], None],
    pause: Callable[[float], bool],
) -> bool:
    """Carry out the four steps. Returns whether the generation is open.

    `upstreams`: by key. `pause` waits and returns whether to stop: the generation then stays closed, and the next
    leader begins another. Raises what Redis and the database raise.
    """
    generations.begin_generation(generation, topology.keys)
    configure()
    # Without workers nothing can be in transit.
    if database.read(workers.beats) and not _wait(generations, clock, pause):
        return False
    while database.write(lambda c: feeding.mark_some_unqueued(c, _CHUNK)):
        generations.beat()
        if pause(0.0):
            return False
    rows = database.read(store.running_rows)
    calls = [_running_call(row, upstreams) for row in rows]
    generations.open_generation(calls, topology.quota_ids, database.read(feeding.queues_to_feed))
    return True


def _wait(generations: RedisPacingStore, clock: Clock, pause: Callable[[float], bool]) -> bool:
    """Wait until nothing redeemed before can still be sent. Returns False when stopped first."""
    until = clock.monotonic() + SENT_WITHIN
    while clock.monotonic() < until:
        generations.beat()
        if pause(_STEP):
            return False
    return True


def _running_call(row: store.RunningRow, upstreams: Mapping[str, str]) -> RunningCall:
    upstream = upstreams.get(row.key, "")
    quotas = Route(row.key, upstream, row.account, row.upstream_model).quotas
    return RunningCall(
        row.task_id,
        row.release,
        row.worker,
        row.key,
        upstream,
        row.account,
        row.upstream_model,
        quotas,
        row.estimate,
    )
