"""A worker process's word to the dispatcher each second: which keys it consumes, and how much it can take.

It can take what it could start in time, though its pool may be larger: see `start_room`.
"""

from __future__ import annotations

import threading
from typing import Protocol

from app.execution.domain.prefetch_allowance import LEAST, prefetch_allowance
from app.execution.in_flight import CallsInFlight, WorkerReadiness
from app.pacing.ports import WorkerReport
from app.platform.background_loop import BackgroundLoop
from app.platform.domain.errors import Unreachable
from app.platform.ports import Clock

EVERY_SECONDS = 1.0
_LOOK_SECONDS = 0.05  # between looks at how many are held
_CHANGED = LEAST // 5  # so many more or fewer held are told at once


class Reports(Protocol):
    """Where reports go."""

    def report(self, report: WorkerReport) -> None:
        """Tell the dispatcher. Raises Unreachable."""

    def leave(self, worker: str) -> None:
        """Say that this worker takes nothing more. Raises Unreachable."""


class ReportSlots:
    """Reports each second, and at once when much has changed."""

    def __init__(
        self,
        worker: str,
        keys: tuple[str, ...],
        slots: int,
        reports: Reports,
        held: CallsInFlight,
        state: WorkerReadiness,
        clock: Clock,
    ) -> None:
        """`slots`: the size of the pool."""
        self._worker = worker
        self._keys = keys
        self._slots = slots
        self._reports = reports
        self._held = held
        self._state = state
        self._clock = clock
        self._told_at, self._told_held = -EVERY_SECONDS, 0
        self._room, self._measured_at, self._measured = LEAST, clock.monotonic(), 0
        self._asked = threading.Event()
        self._asked.set()
        self._loop = BackgroundLoop(
            "report-slots", self._due, every=_LOOK_SECONDS, backoff=(_LOOK_SECONDS, EVERY_SECONDS)
        )

    def start(self) -> None:
        """Begin to report."""
        self._loop.start()

    def consume(self, keys: tuple[str, ...]) -> None:
        """From now on the queues of these keys are consumed."""
        self._keys = keys
        self.at_once()

    def at_once(self) -> None:
        """Something changed that should not wait for the next second."""
        self._asked.set()
        self._loop.ring()

    def close(self, seconds: float) -> None:
        """Say that this worker takes nothing more, if Redis answers."""
        self._loop.close(seconds)
        try:
            self._reports.leave(self._worker)
        except Unreachable:
            pass  # the report grows old by itself

    def _measure(self) -> None:
        """Once a second: how fast calls are started."""
        now, started = self._clock.monotonic(), self._held.started
        if now - self._measured_at >= EVERY_SECONDS:
            self._room = prefetch_allowance(started - self._measured, now - self._measured_at)
            self._measured_at, self._measured = now, started

    def tick(self) -> None:
        """Report what can be taken now: nothing while stopping, or while the database does not answer."""
        self._measure()
        held = self._held.count()
        slots = min(self._slots, held + self._room) if self._state.takes_tasks else 0
        self._told_at, self._told_held = self._clock.monotonic(), held
        try:
            self._reports.report(WorkerReport(self._worker, self._keys, slots, held))
        except Unreachable:
            pass  # so is everything else that the dispatcher could send us

    def _is_due(self) -> bool:
        changed = abs(self._held.count() - self._told_held) >= _CHANGED
        return changed or self._clock.monotonic() - self._told_at >= EVERY_SECONDS

    def _due(self) -> None:
        asked = self._asked.is_set()
        self._asked.clear()
        if asked or self._is_due():
            self.tick()
