"""The calls that a worker holds: counted, drained at its end; their permits released, however a call ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from app.pacing.store.permits import RedisPermits
from app.platform.background_loop import END, BackgroundLoop
from app.platform.domain.errors import RedisUnreachable, Unreachable
from app.tasks.domain.attempt import Settlement

log = structlog.get_logger("penstock.worker")

Held = tuple[str, int]  # (task id, release)

GRACE_SECONDS = 8.0  # after calls are cut off, for recording how they ended


class CallsInFlight:
    """Calls from just before their claim until their ending is recorded.

    All threads of the process share it; `_changed` guards the fields.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages = 0
        self._held: set[Held] = set()
        self.started = 0  # calls since the process began

    @contextmanager
    def message(self) -> Iterator[None]:
        """Count a message being handled: until it is done, the process is not idle."""
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
        """Hold a call. Enter before its claim is sent."""
        with self._changed:
            self._held.add((task_id, release))
            self.started += 1
        try:
            yield
        finally:
            with self._changed:
                self._held.discard((task_id, release))

    def pairs(self) -> tuple[Held, ...]:
        """The calls held now."""
        with self._changed:
            return tuple(self._held)

    def count(self) -> int:
        """How many calls are held now."""
        return len(self._held)

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait up to so long until no message is being handled. Returns whether the process is idle."""
        with self._changed:
            return self._changed.wait_for(lambda: self._messages == 0, timeout=max(0.0, seconds))


class WorkerReadiness:
    """Whether this process may take tasks: it is registered, its database answers, and it is not stopping.

    Plain flags that any thread reads: `registered` belongs to BeatWorker, the events to DrainWorker.
    `database_answers` is set by whoever last spoke to the database.
    """

    def __init__(self) -> None:
        self.registered = False
        self.database_answers = True
        self.draining = threading.Event()  # accept no new task
        self.giving_up = threading.Event()  # leave what is not yet recorded or released to the leader

    @property
    def takes_tasks(self) -> bool:
        """Whether tasks may be released to this process."""
        return self.registered and self.database_answers and not self.draining.is_set()


class DrainWorker:
    """Ends a worker process: no new tasks, time for running calls, then they are cut off and re-queued.

    Runs in its own thread, because the main thread will be waiting for the calls.
    """

    def __init__(
        self,
        in_flight: CallsInFlight,
        readiness: WorkerReadiness,
        abort: Callable[[], None],
        *,
        seconds: float,
        grace: float,
    ) -> None:
        """`abort` cuts off every upstream call; calls get `seconds` before it, and `grace` after it to be recorded."""
        self._in_flight = in_flight
        self._readiness = readiness
        self._abort = abort
        self._seconds = seconds
        self._grace = grace
        self._thread = threading.Thread(target=self._run, name="drain-worker", daemon=True)

    def start(self) -> None:
        """Start waiting for `begin`."""
        self._thread.start()

    def begin(self) -> None:
        """Accept no more tasks. May be called from a signal handler, and more than once."""
        self._readiness.draining.set()

    def _run(self) -> None:
        self._readiness.draining.wait()
        if self._in_flight.wait_until_idle(self._seconds):
            return
        log.warning("running calls cut off and re-queued", calls=self._in_flight.count())
        self._abort()
        if not self._in_flight.wait_until_idle(self._grace):
            log.error("calls left to the leader", calls=self._in_flight.count())
        self._readiness.giving_up.set()


_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0  # seconds
_MAX_BATCH = 200


class ReleasePermits:
    """Releases permits in batches. All threads of a worker process share it.

    The caller flushes the queue; a background thread sends the rest and retries. One sender at a time: `_sending`
    says that there is one, and `_changed` guards all fields.
    """

    def __init__(self, permits: RedisPermits) -> None:
        self._permits = permits
        self._changed = threading.Condition()
        self._waiting: list[Settlement] = []
        self._sending = False
        self._by_thread = True  # until the thread runs, and while Redis is away: callers must not wait for it
        self._closing = False
        self._loop = BackgroundLoop(
            "release-permits", self._flush, expected=(Unreachable,), backoff=(_FIRST_WAIT, _LONGEST_WAIT)
        )

    def start(self) -> None:
        """Start the background thread."""
        self._loop.start()
        with self._changed:
            self._by_thread = bool(self._waiting)

    def add(self, settlement: Settlement) -> None:
        """Release now, or soon if another thread is sending."""
        with self._changed:
            self._waiting.append(settlement)
            if self._sending:
                return
            if self._by_thread:
                self._changed.notify()
                return
            self._sending = True
        self._send()

    def close(self, seconds: float) -> int:
        """Send what is queued, within `seconds`. Returns how many permits are left to the leader."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._loop.join(seconds)
        with self._changed:
            return len(self._waiting)

    def _flush(self) -> object:
        if not self._acquire():
            return END
        if not self._send():
            raise RedisUnreachable("permits wait for Redis to be released")
        return None

    def _acquire(self) -> bool:
        """Become the sender once there is something to send. False: the queue is empty and the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._sending and (self._waiting or self._closing))
            self._sending = bool(self._waiting)
            return self._sending

    def _send(self) -> bool:
        """Send one batch, as the only sender. Returns whether Redis took it."""
        batch = self._waiting[:_MAX_BATCH]
        taken = self._settle(batch)
        with self._changed:
            if taken:
                del self._waiting[: len(batch)]
            self._sending, self._by_thread = False, not taken
            if self._waiting or self._closing:
                self._changed.notify()
        return taken

    def _settle(self, batch: Sequence[Settlement]) -> bool:
        """Whether the batch is done. A settlement that Redis itself refuses is dropped, not retried forever."""
        try:
            self._permits.settle(batch)
        except Unreachable:
            return False
        except Exception as error:  # noqa: BLE001  # the others must not wait for a bad one
            if len(batch) == 1:
                log.error("settlement refused", task_id=batch[0].task_id, error=type(error).__name__)
                return True
            return all(self._settle([one]) for one in batch)
        return True
