"""What the dashboard shows: one service snapshot for everyone who looks, each viewer's own lists, and what was used."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from app.billing.domain.usage import UsageFilter, fold_free
from app.billing.store import usage
from app.callbacks.dead_letters import DeadLetterRow, list_dead
from app.execution.store import workers
from app.pacing.domain.throughput import Quality, quality
from app.pacing.store.lines import start_estimates
from app.platform.background_loop import RateLimitedRead
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.domain.names import is_id
from app.platform.encryption import leniently
from app.reporting.domain.alerts import Alert, Channel, firing
from app.reporting.domain.dashboard_view import QuotaLine, WaitingLine, quota_lines
from app.reporting.domain.recent_calls import Forecast, Pace, Second
from app.reporting.read_service import ServiceReader, ServiceSnapshot
from app.reporting.store import service_queries
from app.reporting.store.alerts import load_alerts, load_channels
from app.reporting.store.service_queries import FailedRow, LatestRow, RunningCalls
from app.settings.domain.routing import Topology
from app.tasks.domain.rows import AttemptRow, BatchRow, DeliveryAttempt, TaskRow
from app.tasks.domain.task import BatchStatus
from app.tasks.store import tasks
from app.tasks.store.batches import get_batch, list_batches
from app.upstreams.domain.key_health import Condition, KeyStatus

_CALLS = 5_000  # ended calls read at once
_OVERLAP = 500  # calls read again, because sequence numbers and commits may come in different orders


@dataclass(frozen=True, slots=True)
class Own:
    """What one client may see of lists, or (all of them) an administrator."""

    batches: Sequence[BatchRow] = ()
    failures: Sequence[FailedRow] = ()
    latest: Sequence[LatestRow] = ()
    dead: Sequence[DeadLetterRow] = ()
    alerts: Sequence[Alert] = ()  # that fire; administrators see them
    pauses: Mapping[str, float] = field(default_factory=dict)  # by subject: since when
    refused: Mapping[str, KeyStatus] = field(
        default_factory=dict
    )  # keys and accounts not to be used; administrators'
    sealed: str = ""  # why some content could not be read: the key that it was encrypted by is missing


@dataclass(frozen=True, slots=True)
class Overview:
    """All that one viewer sees. `gate` None: Redis does not answer."""

    at: float
    client_id: str | None  # None: an administrator
    database: bool  # whether it answers
    redis: bool
    leads: bool
    waiting: Sequence[WaitingLine]
    later: Mapping[str, int]
    released: int | None
    flight: int
    running: Sequence[RunningCalls]
    seconds: Sequence[Second]
    workers: int
    slots: int
    keys: Mapping[str, int]
    quotas: Sequence[QuotaLine]
    own: Own
    done_at: Mapping[str, float] = field(default_factory=dict)  # batch id: when it will be done


class ReadOverview:
    """Renders service snapshots for the dashboard; one per process, one thread at a time under `_lock`.

    Never raises for what is unreachable.
    """

    def __init__(self, service: ServiceReader, topology: Topology) -> None:
        self._service = service
        self._topology = topology
        self._lock = threading.Lock()
        self._pace = Pace()
        self._forecast = Forecast()
        self._seen: dict[int, None] = {}  # sequence numbers of the latest calls that were counted
        self._last_call = 0
        self._owns: dict[str | None, RateLimitedRead[Own]] = {}

    def read(
        self, viewers: Sequence[str | None], remember: Sequence[str | None] = ()
    ) -> dict[str | None, Overview]:
        """An overview for each viewer: a client's id, or None for administrators.

        The lists of other viewers are forgotten, except those to `remember`.
        """
        with self._lock:
            seen = self._service.read()
            database = seen.database and self._read_lists(viewers)
            self._pace.forget(seen.at)
            for gone in self._owns.keys() - {*viewers, *remember}:
                del self._owns[gone]
            self._forecast.keep(row.id for kept in self._owns.values() for row in kept.value.batches)
            return {viewer: self._overview(viewer, seen, database=database) for viewer in viewers}

    def _read_lists(self, viewers: Sequence[str | None]) -> bool:
        """Whether the database answered."""
        read, clock = self._service.database.read, self._service.clock
        try:
            self._count_calls()
            for viewer in viewers:
                kept = self._owns.setdefault(viewer, RateLimitedRead(Own(), 2.0, clock))
                kept.get(lambda viewer=viewer: read(lambda conn: _own(conn, viewer)))  # type: ignore[misc]
        except DatabaseUnreachable:
            return False
        return True

    def _count_calls(self) -> None:
        """Count the calls that have ended since the last look."""
        after = max(0, self._last_call - _OVERLAP)
        found = self._service.database.read(lambda conn: service_queries.last_calls(conn, after, _CALLS))
        new = [(seq, call) for seq, call in found if seq not in self._seen]
        self._pace.add(call for _, call in new)
        self._seen.update(dict.fromkeys(seq for seq, _ in new))
        self._last_call = max([self._last_call, *(seq for seq, _ in found)])
        for seq in list(self._seen)[: max(0, len(self._seen) - 2 * _CALLS)]:
            del self._seen[seq]

    def _overview(self, viewer: str | None, seen: ServiceSnapshot, *, database: bool) -> Overview:
        gate = seen.pacing
        shown = gate if viewer is None else None  # the parts that only administrators see
        running = [group for group in seen.running if viewer in (None, group.client_id)]
        own = replace(
            self._owns[viewer].value if viewer in self._owns else Own(),
            pauses={name: at for name, at in seen.pauses.items() if _concerns(name, viewer)},
            refused={
                n: h for n, h in seen.health.items() if viewer is None and h.condition is not Condition.ACTIVE
            },
        )
        return Overview(
            at=seen.at,
            client_id=viewer,
            database=database,
            redis=gate is not None,
            leads=seen.leads,
            waiting=[line for line in seen.lines if viewer in (None, line.client_id)],
            later={client: n for client, n in seen.later.items() if viewer in (None, client)},
            released=shown.released if shown else None,
            flight=sum(group.calls for group in running),
            running=running,
            seconds=self._pace.seconds(viewer, seen.at),
            workers=gate.workers if gate else 0,
            slots=gate.slots if gate else 0,
            keys=shown.keys if shown else {},
            quotas=self._quotas(seen, running) if shown else (),
            own=own,
            done_at=self._done_at(own.batches, seen.at),
        )

    def _quotas(self, seen: ServiceSnapshot, running: Sequence[RunningCalls]) -> Sequence[QuotaLine]:
        quotas = seen.pacing.quotas if seen.pacing else {}
        report = seen.report.get("dispatcher", {})
        return quota_lines(self._topology, quotas, self._pace.sent(seen.at), running, report, seen.at)

    def _done_at(self, batches: Sequence[BatchRow], now: float) -> dict[str, float]:
        found = {}
        for row in batches:
            ended = row.completed + row.failed + row.cancelled
            if row.status.ended or not row.total:
                continue
            self._forecast.look(row.id, ended, now)
            if at := self._forecast.done_at(row.id, row.in_progress_at, ended, row.total, now):
                found[row.id] = at
        return found


def _own(conn: Connection, client_id: str | None) -> Own:
    known = Own(alerts=firing(load_alerts(conn).values()) if client_id is None else ())
    with leniently() as unreadable:
        known = replace(
            known,
            batches=list_batches(conn, client_id, limit=30),
            failures=service_queries.recent_failures(conn, client_id, 100),
            latest=service_queries.latest_tasks(conn, client_id, 10),
            dead=list_dead(conn, client_id, limit=10),
        )
    return replace(known, sealed=str(unreadable[0])) if unreadable else known


def _concerns(subject: str, client_id: str | None) -> bool:
    """Whether a client is to know of a pause: keys and other clients are none of its business."""
    kind = subject.partition(":")[0]
    return client_id is None or kind in ("everything", "model") or subject == f"client:{client_id}"


@dataclass(frozen=True, slots=True)
class UpstreamTraffic:
    """Upstream calls of the last day's worker processes, and connections opened for them."""

    calls: int
    connections: int

    @property
    def per_thousand(self) -> float | None:
        """Connections opened for 1,000 calls; None before the first call."""
        return round(1000 * self.connections / self.calls, 2) if self.calls else None


class ReadUsage:
    """The use case."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, wanted: UsageFilter) -> list[dict[str, Any]]:
        """Figures by what is asked for. Raises DatabaseUnreachable."""
        rows = self._database.read(lambda conn: usage.report(conn, wanted))
        return fold_free(rows, wanted.by)

    def response_seconds(self, wanted: UsageFilter) -> dict[tuple[str, ...], list[float]]:
        """Seconds of the newest successful calls, by the same groups. Raises DatabaseUnreachable."""
        return self._database.read(lambda conn: usage.response_seconds(conn, wanted))

    def wire(self, since: float) -> UpstreamTraffic:
        """Calls and connections of workers that have beaten since an instant. Raises DatabaseUnreachable."""
        return UpstreamTraffic(*self._database.read(lambda conn: workers.wire(conn, since)))

    def estimate_quality(self, client_id: str, limit: int) -> Quality:
        """Estimated and actual starts of a client's newest successful tasks. Raises DatabaseUnreachable."""
        return quality(self._database.read(lambda conn: start_estimates(conn, client_id, limit)))


def read_alerts(database: Database) -> tuple[list[Alert], list[Channel]]:
    """All alerts, and how each channel's last message fared. Raises DatabaseUnreachable."""
    return database.read(lambda conn: (list(load_alerts(conn).values()), load_channels(conn)))


@dataclass(frozen=True, slots=True)
class TaskDetails:
    """All that is known of one task."""

    row: TaskRow
    calls: Sequence[AttemptRow]
    deliveries: Sequence[DeliveryAttempt]
    content: Any  # its request, and the id of the task that replaced it


def read_task_details(database: Database, client_id: str | None, task_id: str) -> TaskDetails | None:
    """One task of a client (None: of any); None if there is none. Raises DatabaseUnreachable."""

    def read(conn: Connection) -> TaskDetails | None:
        row = tasks.get_task(conn, client_id, task_id) if is_id("task", task_id) else None
        if row is None:
            return None
        calls, deliveries = tasks.attempts_of(conn, task_id), tasks.deliveries_of(conn, task_id)
        return TaskDetails(row, calls, deliveries, service_queries.content_of(conn, row.seq))

    return database.read(read)


def read_batch_details(
    database: Database, client_id: str | None, batch_id: str, limit: int
) -> tuple[BatchRow, Sequence[FailedRow], Sequence[LatestRow]] | None:
    """One batch of a client (None: of any) with up to `limit` failures and tasks. Raises DatabaseUnreachable."""

    def read(conn: Connection) -> tuple[BatchRow, Sequence[FailedRow], Sequence[LatestRow]] | None:
        row = get_batch(conn, client_id, batch_id) if is_id("batch", batch_id) else None
        if row is None or (row.status is BatchStatus.VALIDATING and row.input_file_id is None):
            return None
        failed = service_queries.failures_of_batch(conn, batch_id, limit)
        return row, failed, service_queries.tasks_of_batch(conn, batch_id, None, limit)

    return database.read(read)


def read_failures(database: Database, client_id: str | None, limit: int) -> list[FailedRow]:
    """A client's latest failures (None: everybody's). Raises DatabaseUnreachable."""
    return database.read(lambda conn: service_queries.recent_failures(conn, client_id, limit))
