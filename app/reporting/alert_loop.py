"""A process's thread for alerts: it tells how its machine fares, and watches when that falls to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.reporting.domain.pacing_snapshot import PacingSnapshot
from app.reporting.store.alerts import note_vitals
from app.reporting.watch_alerts import WatchAlerts

VITALS_SECONDS = 10.0
_NO_BEAT = 4.0  # seconds after which nobody leads


class HeartbeatReader(Protocol):
    """Looks at the gate."""

    def look(self) -> PacingSnapshot:
        """The gate as it stands. Raises RedisUnreachable."""


@dataclass(slots=True)
class NoteVitals:
    """Every ten seconds: the machine's CPUs, and requests answered a second."""

    process: str
    host: str
    database: Database
    clock: Clock
    cpu: Callable[[], float]  # busy part since it was last asked
    requests: Callable[[], int] = field(default=lambda: 0)  # answered so far
    _due: float = -1.0
    _seen: tuple[float, int] | None = None

    def tick(self) -> None:
        """Write them down, when that is due. Raises DatabaseUnreachable."""
        now, count = self.clock.monotonic(), self.requests()
        if now < self._due:
            return
        self._due = now + VITALS_SECONDS
        at, before = self._seen or (now, count)
        self._seen = (now, count)
        rate, cpu, wall = (count - before) / max(1.0, now - at), self.cpu(), self.clock.now()
        self.database.write(lambda conn: note_vitals(conn, self.process, self.host, cpu, rate, wall))


class NobodyLeads:
    """Whether no leader beats, as an API process sees it."""

    def __init__(self, gauge: HeartbeatReader, clock: Clock) -> None:
        self._gauge = gauge
        self._clock = clock
        self._beat: tuple[str, int] | None = None
        self._since = clock.monotonic()

    def __call__(self) -> bool:
        """Looks once. Redis out of reach: nobody can lead."""
        try:
            gate = self._gauge.look()
        except RedisUnreachable:
            return True
        beat = (gate.term, gate.beat)
        if beat != self._beat:
            self._beat, self._since = beat, self._clock.monotonic()
        return not gate.term or self._clock.monotonic() - self._since >= _NO_BEAT


class AlertLoop:
    """The thread. Whatever goes wrong in it, it goes on."""

    def __init__(
        self, vitals: NoteVitals, watch: WatchAlerts | None = None, may: Callable[[], bool] = lambda: False
    ) -> None:
        """`may` tells whether watching falls to this process now."""
        self._vitals = vitals
        self._watch = watch
        self._may = may
        every = watch.watching.every if watch is not None else VITALS_SECONDS
        self._loop = BackgroundLoop(
            "alerts",
            self.tick,
            every=every,
            at_once=False,
            expected=(DatabaseUnreachable,),
            backoff=(every, every),
        )

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    def close(self) -> None:
        """End, and leave the watch to others."""
        self._loop.close()
        if self._watch is not None:
            self._watch.leave()
            self._watch.sending.close()

    def tick(self) -> None:
        """What is due. Raises DatabaseUnreachable."""
        self._vitals.tick()
        if self._watch is not None:
            if self._may():
                self._watch.tick()
            else:
                self._watch.leave()
