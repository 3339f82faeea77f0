"""What the dashboard shows, read for all who look together.

Every read is bounded and by index. A count that took long is repeated the more seldom: reading never takes more
than a twentieth of the time. What cannot be reached is left out, and said to be.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from app.callbacks.dead_letters import DeadLetterRow, list_dead
from app.pacing.store.leader_state import load_pauses
from app.platform.background_loop import RateLimitedRead
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.encryption import leniently
from app.platform.ports import Clock
from app.reporting.domain.alerts import Alert
from app.reporting.domain.dashboard_view import (
    QuotaLine,
    WaitingLine,
    later_by_client,
    quota_lines,
    waiting_lines,
)
from app.reporting.domain.recent_calls import SENT_SPAN, Forecast, Pace, Second, Sender, Sent
from app.reporting.domain.snapshot import PacingSnapshot
from app.reporting.read_dispatcher import LeaderReport, SnapshotReader
from app.reporting.store import service_queries
from app.reporting.store.alerts import firing
from app.reporting.store.service_queries import FailedRow, LatestRow, RunningCalls
from app.settings.domain.routing import Topology
from app.tasks.store.batches import BatchRow, list_batches
from app.upstreams.domain.key_health import Condition, KeyStatus
from app.upstreams.store.health import load_health

MOST = 1_000_000  # rows counted of one client, and of one queue
_FED_MOST = 50_000  # fed rows looked at while Redis is away
_CALLS = 5_000  # ended calls read at once
_OVERLAP = 500  # calls read again: the order of numbers is not that of commits
_LEADER_SILENT = 4.0  # seconds without a beat after which nobody seems to lead


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


@dataclass(frozen=True, slots=True)
class _Counts:
    stored: Mapping[str, int]
    later: Mapping[str, int]
    fed: Mapping[str, int]  # only while Redis is away


class ReadOverview:
    """The use case; one for a process. Never raises for what is out of reach."""

    def __init__(
        self,
        database: Database,
        gauge: SnapshotReader | None,
        topology: Topology,
        clock: Clock,
        told: LeaderReport | None = None,
    ) -> None:
        self._database = database
        self._told = told
        self._gauge = gauge
        self._topology = topology
        self._clock = clock
        self._lock = threading.Lock()
        self._pace = Pace()
        self._forecast = Forecast()
        self._seen: dict[int, None] = {}  # numbers of calls that were counted, the latest of them
        self._last_call = 0
        self._counts = RateLimitedRead(_Counts({}, {}, {}), 3.0, clock)
        self._running: RateLimitedRead[list[RunningCalls]] = RateLimitedRead([], 2.0, clock)
        self._owns: dict[str | None, RateLimitedRead[Own]] = {}
        self._beat: tuple[int, float] = (-1, 0.0)
        self._database_due = -1.0

    def read(
        self, viewers: Sequence[str | None], remember: Sequence[str | None] = ()
    ) -> dict[str | None, Overview]:
        """An overview for each kind of viewer: a client's id, or None for administrators.

        What was read for others is thrown away, but for those to `remember`.
        """
        with self._lock:
            gate = self._look()
            ok = self._read_database(gate, viewers)
            self._pace.forget(self._clock.now())
            for gone in self._owns.keys() - {*viewers, *remember}:
                del self._owns[gone]
            self._forecast.keep(row.id for kept in self._owns.values() for row in kept.value.batches)
            return {viewer: self._overview(viewer, gate, database=ok) for viewer in viewers}

    def figures(self) -> Overview:
        """An administrator's overview without its lists: nothing is read that belongs to a client."""
        with self._lock:
            gate = self._look()
            ok = self._read_database(gate, ())
            self._pace.forget(self._clock.now())
            return self._overview(None, gate, database=ok)

    def _look(self) -> PacingSnapshot | None:
        if self._gauge is None:
            return None
        try:
            gate = self._gauge.look()
        except RedisUnreachable:
            return None
        if gate.beat != self._beat[0]:
            self._beat = (gate.beat, self._clock.monotonic())
        return gate

    def _read_database(self, gate: PacingSnapshot | None, viewers: Sequence[str | None]) -> bool:
        """Whether it answered. After a refusal it is left alone for two seconds."""
        if self._clock.monotonic() < self._database_due:
            return False
        try:
            self._count_calls()
            now = self._clock.now()
            self._running.get(
                lambda: self._database.read(lambda c: service_queries.running(c, now - SENT_SPAN))
            )
            self._counts.get(lambda: self._count(gate))
            for viewer in viewers:
                kept = self._owns.setdefault(viewer, RateLimitedRead(Own(), 2.0, self._clock))
                kept.get(lambda viewer=viewer: self._database.read(lambda c: _own(c, viewer)))  # type: ignore[misc]
        except DatabaseUnreachable:
            self._database_due = self._clock.monotonic() + 2.0
            return False
        return True

    def _count_calls(self) -> None:
        """Take note of calls that have ended since the last look."""
        after = max(0, self._last_call - _OVERLAP)
        found = self._database.read(lambda conn: service_queries.last_calls(conn, after, _CALLS))
        new = [(seq, call) for seq, call in found if seq not in self._seen]
        self._pace.add(call for _, call in new)
        self._seen.update(dict.fromkeys(seq for seq, _ in new))
        self._last_call = max([self._last_call, *(seq for seq, _ in found)])
        for seq in list(self._seen)[: max(0, len(self._seen) - 2 * _CALLS)]:
            del self._seen[seq]

    def _count(self, gate: PacingSnapshot | None) -> _Counts:
        def read(conn: Connection) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
            fed = {} if gate else service_queries.fed_by_queue(conn, _FED_MOST)
            return (
                service_queries.waiting_by_client(conn, MOST),
                service_queries.unfed_by_queue(conn, MOST),
                fed,
            )

        waiting, stored, fed = self._database.read(read)
        ready = waiting_lines(gate.queues if gate else fed, stored, MOST)
        later = later_by_client(waiting, ready, moving=bool(self._running.value))
        return _Counts(stored, later, fed)

    def _overview(self, viewer: str | None, gate: PacingSnapshot | None, *, database: bool) -> Overview:
        now, counts = self._clock.now(), self._counts.value
        lines = waiting_lines(gate.queues if gate else counts.fed, counts.stored, MOST)
        running = [group for group in self._running.value if viewer in (None, group.client_id)]
        own = self._owns[viewer].value if viewer in self._owns else Own()
        sent = self._pace.sent(now)
        return Overview(
            at=now,
            client_id=viewer,
            database=database,
            redis=gate is not None,
            leads=self._leads(gate),
            waiting=[line for line in lines if viewer in (None, line.client_id)],
            later={client: n for client, n in counts.later.items() if viewer in (None, client)},
            released=gate.released if gate and viewer is None else None,
            flight=sum(group.calls for group in running),
            running=running,
            seconds=self._pace.seconds(viewer, now),
            workers=gate.workers if gate else 0,
            slots=gate.slots if gate else 0,
            keys=gate.keys if gate and viewer is None else {},
            quotas=self._quotas(gate, sent, running, now) if gate and viewer is None else (),
            own=own,
            done_at=self._done_at(own.batches, now),
        )

    def _quotas(
        self, gate: PacingSnapshot, sent: Mapping[Sender, Sent], running: Sequence[RunningCalls], now: float
    ) -> Sequence[QuotaLine]:
        said = self._told.said().get("dispatcher", {}) if self._told else {}
        return quota_lines(self._topology, gate.quotas, sent, running, said, now)

    def _leads(self, gate: PacingSnapshot | None) -> bool:
        quiet = self._clock.monotonic() - self._beat[1]
        return gate is not None and bool(gate.term) and quiet < _LEADER_SILENT

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
    known = Own(
        alerts=firing(conn) if client_id is None else (),
        pauses={name: at for name, at in load_pauses(conn).items() if _concerns(name, client_id)},
        refused={} if client_id is not None else _refused(conn),
    )
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


def _refused(conn: Connection) -> dict[str, KeyStatus]:
    return {name: how for name, how in load_health(conn).items() if how.condition is not Condition.ACTIVE}
