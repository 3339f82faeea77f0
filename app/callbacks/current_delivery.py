"""The delivery that a callback worker uses now: one for each configuration, closed once its last callback is over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.callbacks.deliver_callback import CallbackDelivery


class CurrentDelivery:
    """Locked; may be used by many threads. A replaced delivery ends what it has in the air, then closes its sockets."""

    def __init__(self, make: Callable[[], CallbackDelivery]) -> None:
        """`make` is called at the first callback: a process that gets none opens nothing."""
        self._lock = threading.Lock()
        self._make = make
        self._newest: CallbackDelivery | None = None
        self._users: Counter[CallbackDelivery] = Counter()
        self._stopped = False

    def deliver(self, callback_id: str) -> None:
        """Deliver one callback, and what waits in line behind it. Raises what `CallbackDelivery.deliver` does."""
        with self._used() as delivery:
            delivery.deliver(callback_id)

    def replace(self, make: Callable[[], CallbackDelivery]) -> None:
        """Use another one from the next callback on. What stood in line is rung again, and goes to that one."""
        with self._lock:
            self._make = make
            old, self._newest = self._newest, None
            idle = old is not None and old not in self._users
        if old is not None:
            old.stop()
            if idle:
                old.close()

    def stop(self) -> None:
        """Begin nothing more beside what is in the air: this process ends."""
        with self._lock:
            self._stopped = True
            known = set(self._users) | ({self._newest} if self._newest is not None else set())
        for delivery in known:
            delivery.stop()

    @contextmanager
    def _used(self) -> Iterator[CallbackDelivery]:
        with self._lock:
            delivery = self._take()
            self._users[delivery] += 1
        try:
            yield delivery
        finally:
            self._leave(delivery)

    def _take(self) -> CallbackDelivery:
        if self._newest is None:
            self._newest = self._make()
            if self._stopped:
                self._newest.stop()
        return self._newest

    def _leave(self, delivery: CallbackDelivery) -> None:
        with self._lock:
            self._users[delivery] -= 1
            last = not self._users[delivery]
            if last:
                del self._users[delivery]
            over = last and delivery is not self._newest
        if over:
            delivery.close()
