"""Settles permits, again and again while Redis is away: whatever ends a call, its slot comes back."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from app.pacing.ports import Permits
from app.platform.background_loop import END, BackgroundLoop
from app.platform.domain.errors import RedisUnreachable, Unreachable
from app.tasks.domain.attempt import Settlement

log = structlog.get_logger("penstock.worker")

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0  # seconds
_MOST_TOGETHER = 200


class ReleasePermits:
    """Settlements that are ready at the same time go together.

    Who ends a call sends what waits, himself; what comes meanwhile, and what Redis did not take, a thread sends.
    """

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._changed = threading.Condition()
        self._waiting: list[Settlement] = []
        self._sending = False  # whether somebody does
        self._by_thread = True  # until it runs, and while Redis is away: nobody else is to wait for that
        self._closing = False
        self._loop = BackgroundLoop(
            "settle-permits", self._turn, expected=(Unreachable,), backoff=(_FIRST_WAIT, _LONGEST_WAIT)
        )

    def start(self) -> None:
        """Begin to send."""
        self._loop.start()
        with self._changed:
            self._by_thread = bool(self._waiting)

    def add(self, settlement: Settlement) -> None:
        """Settle now, or soon where others are at it."""
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
        """Send what waits, at most so long; gives back how many settlements are left to the leader."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._loop.join(seconds)
        with self._changed:
            return len(self._waiting)

    def _turn(self) -> object:
        if not self._take_turn():
            return END
        if not self._send():
            raise RedisUnreachable("settlements wait for Redis")
        return None

    def _take_turn(self) -> bool:
        """Wait for the thread's turn; False when nothing waits any more and the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._sending and (self._waiting or self._closing))
            self._sending = bool(self._waiting)
            return self._sending

    def _send(self) -> bool:
        """Send once, as whoever's turn it is; whether Redis took it."""
        batch = self._waiting[:_MOST_TOGETHER]
        taken = self._settle(batch)
        with self._changed:
            if taken:
                del self._waiting[: len(batch)]
            self._sending, self._by_thread = False, not taken
            if self._waiting or self._closing:
                self._changed.notify()
        return taken

    def _settle(self, batch: Sequence[Settlement]) -> bool:
        """Whether the batch is done with. One that is refused for itself is left out, not repeated for ever."""
        try:
            self._permits.settle(batch)
        except Unreachable:
            return False
        except Exception as error:  # noqa: BLE001  # the others must not wait for a bad one
            if len(batch) == 1:
                log.error("a settlement was refused", task_id=batch[0].task_id, error=type(error).__name__)
                return True
            return all(self._settle([one]) for one in batch)
        return True
