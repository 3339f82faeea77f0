"""Settles permits, again and again while Redis is away: whatever ends a call, its slot comes back."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from app.domain.attempt import Settlement
from app.domain.errors import Unreachable
from app.services.ports import Permits

log = structlog.get_logger("penstock.worker")

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0  # seconds
_MOST_TOGETHER = 200


class SettlePermits:
    """Settlements that are ready at the same time go together; a thread of its own sends them."""

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._changed = threading.Condition()
        self._waiting: list[Settlement] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="settle-permits", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def add(self, settlement: Settlement) -> None:
        """Settle soon."""
        with self._changed:
            self._waiting.append(settlement)
            self._changed.notify()

    def close(self, seconds: float) -> int:
        """Send what waits, at most so long; gives back how many settlements are left to the leader."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            return len(self._waiting)

    def _run(self) -> None:
        wait = _FIRST_WAIT
        while batch := self._next():
            if self._settle(batch):
                wait = _FIRST_WAIT
                with self._changed:
                    del self._waiting[: len(batch)]
            else:
                threading.Event().wait(wait)
                wait = min(_LONGEST_WAIT, wait * 2)

    def _next(self) -> list[Settlement]:
        """Those to send next; empty when nothing waits any more and the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting[:_MOST_TOGETHER]

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
