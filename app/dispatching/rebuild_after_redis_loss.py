"""Redis lost or replaced what it held: begin again from the database.

1. Throw away places and permits; from here on publishing is refused and no permit can be redeemed.
2. Wait for what was redeemed before: it is sent within 2 s of that, or not at all.
3. Everything queued counts as not fed.
4. Put back the permits of calls that run; told buckets start empty; open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from app.dispatching.store import reconciling
from app.execution.store import workers
from app.pacing.domain.running import RunningCall
from app.platform.database import Database
from app.platform.ports import Clock
from app.settings.domain.routing import Route, Topology
from app.tasks.store import feeding

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
    rows = database.read(reconciling.running_rows)
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


def _running_call(row: reconciling.RunningRow, upstreams: Mapping[str, str]) -> RunningCall:
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
