"""The end of a worker process: nothing new, running calls get their time, then they are cut off and given back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from app.execution.in_flight import CallsInFlight, WorkerReadiness

log = structlog.get_logger("penstock.worker")

GRACE_SECONDS = 8.0  # after the cut, for recording what the calls came to


class DrainWorker:
    """Waits in a thread of its own for the word to stop, as the main thread will wait for the calls."""

    def __init__(
        self,
        held: CallsInFlight,
        state: WorkerReadiness,
        abort: Callable[[], None],
        *,
        seconds: float,
        grace: float,
    ) -> None:
        """`abort` ends every upstream call in flight."""
        self._held = held
        self._state = state
        self._abort = abort
        self._seconds = seconds
        self._grace = grace
        self._thread = threading.Thread(target=self._run, name="drain-worker", daemon=True)

    def start(self) -> None:
        """Begin to wait for the word."""
        self._thread.start()

    def begin(self) -> None:
        """Stop taking tasks. May be called from a signal handler, and again."""
        self._state.draining.set()

    def _run(self) -> None:
        """1. Wait for the word. 2. Give calls their time. 3. Cut them off. 4. Let their endings be recorded."""
        self._state.draining.wait()
        if self._held.wait_until_idle(self._seconds):
            return
        log.warning("running calls are cut off and given back", calls=self._held.count())
        self._abort()
        if not self._held.wait_until_idle(self._grace):
            log.error("calls are left to the leader", calls=self._held.count())
        self._state.giving_up.set()
