"""What a worker process holds in memory, and whether it may take more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

Held = tuple[str, int]  # (task id, release)


class CallsInFlight:
    """Calls from their claim until their ending is recorded. May be used by many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages = 0
        self._held: set[Held] = set()
        self.started = 0  # calls ever held

    @contextmanager
    def message(self) -> Iterator[None]:
        """Count a message in hand: until it is done with, the process is not idle."""
        with self._changed:
            self._messages += 1
        try:
            yield
        finally:
            with self._changed:
                self._messages -= 1
                self._changed.notify_all()

    @contextmanager
    def call(self, task_id: str, release: int) -> Iterator[None]:
        """Hold a call, from before its claim is asked for."""
        with self._changed:
            self._held.add((task_id, release))
            self.started += 1
        try:
            yield
        finally:
            with self._changed:
                self._held.discard((task_id, release))

    def pairs(self) -> tuple[Held, ...]:
        """What is held now."""
        with self._changed:
            return tuple(self._held)

    def count(self) -> int:
        """How many are held now."""
        return len(self._held)

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no message is in hand, at most so long; whether that came to be."""
        with self._changed:
            return self._changed.wait_for(lambda: self._messages == 0, timeout=max(0.0, seconds))


class WorkerReadiness:
    """Whether this process may take tasks: it is registered, its database answers, and it is not stopping."""

    def __init__(self) -> None:
        self.registered = False
        self.database_answers = True
        self.draining = threading.Event()  # nothing new is begun
        self.giving_up = (
            threading.Event()
        )  # what could not be recorded or settled by now is left to the leader

    @property
    def takes_tasks(self) -> bool:
        """Whether tasks may be released to this process."""
        return self.registered and self.database_answers and not self.draining.is_set()


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
