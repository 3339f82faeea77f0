"""Releases permits, with retries while Redis is away: however a call ends, its slot is freed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from app.pacing.ports import Permits
from app.platform.background_loop import END, BackgroundLoop
from app.platform.domain.errors import RedisUnreachable, Unreachable
from app.tasks.domain.attempt import Settlement

_log = structlog.get_logger("penstock.worker")

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0  # seconds
_MAX_BATCH = 200


class ReleasePermits:
    """Releases permits in batches. All threads of a worker process share it.

    The caller flushes the queue; a background thread sends the rest and retries. One sender at a time: `_sending`
    says that there is one, and `_changed` guards all fields.
    """

    def __init__(self, permits: Permits) -> None:
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
                _log.error("settlement refused", task_id=batch[0].task_id, error=type(error).__name__)
                return True
            return all(self._settle([one]) for one in batch)
        return True
