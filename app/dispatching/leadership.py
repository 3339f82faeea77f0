"""How a leader begins: it is elected, and rebuilds what Redis lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from app.dispatching import store
from app.execution.store import workers
from app.pacing.ports import RunningCall
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.domain.routing import Route, Topology
from app.tasks.store import feeding

SILENCE = 2.0  # seconds without a beat, on the candidate's own clock, after which a leader is taken for gone


class LeaderLock(Protocol):
    """Where the term is kept."""

    def leader(self) -> tuple[str, str]:
        """The present term and its beat."""

    def take_lead(self, term: str, seen: str) -> bool:
        """Take the lead if `seen` still stands."""


class LeaderElection:
    """Watches the leader's beat."""

    def __init__(self, seat: LeaderLock, clock: Clock) -> None:
        self._seat = seat
        self._clock = clock
        self._seen: tuple[str, str] | None = None
        self._since = 0.0

    def try_lead(self, term: str) -> bool:
        """Take the lead under `term` if nobody leads, or the leader's beat has not changed for 2 s.

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
_STEP = 0.2  # seconds between beats meanwhile
_CHUNK = 5000


class Epochs(Protocol):
    """Where epochs are kept."""

    def begin_epoch(self, epoch: str, keys: Iterable[str]) -> None:
        """Throw away what is held of places and permits."""

    def beat(self) -> None:
        """Say that the leader lives."""

    def open_epoch(self, calls: Sequence[RunningCall], quotas: Iterable[str], behind: Iterable[str]) -> None:
        """Put back permits of running calls and allow publishing again."""


def begin_epoch(
    epochs: Epochs,
    database: Database,
    topology: Topology,
    clock: Clock,
    *,
    epoch: str,
    upstreams: Mapping[str, str],
    configure: Callable[[], None],
    pause: Callable[[float], bool],
) -> bool:
    """Carry out the four steps. Returns whether the epoch is open.

    `upstreams` gives each key's. `pause` waits and returns whether to stop: the epoch then stays shut, and the next
    leader begins another. Raises what Redis and the database raise.
    """
    epochs.begin_epoch(epoch, topology.keys)
    configure()
    # Without workers nothing can be on its way.
    if database.read(workers.beats) and not _wait(epochs, clock, pause):
        return False
    while database.write(lambda c: feeding.mark_some_unqueued(c, _CHUNK)):
        epochs.beat()
        if pause(0.0):
            return False
    rows = database.read(store.running_rows)
    calls = [_running_call(row, upstreams) for row in rows]
    epochs.open_epoch(calls, topology.quota_ids, database.read(feeding.queues_to_feed))
    return True


def _wait(epochs: Epochs, clock: Clock, pause: Callable[[float], bool]) -> bool:
    """Until nothing redeemed before can still be sent. Returns False when told to stop first."""
    until = clock.monotonic() + SENT_WITHIN
    while clock.monotonic() < until:
        epochs.beat()
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
