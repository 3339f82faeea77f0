"""Wait until a task has ended, without holding a database connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.platform.ports import Clock
from app.tasks.read_tasks import ReadTasks
from app.tasks.store.tasks import TaskRow

LONGEST_WAIT = 60.0  # seconds
LOOK_EVERY = 5.0  # seconds between looks whether the client is still there: each wakes a thread of its own


class Waiters:
    """Who waits for which id in this process. One notifier and one poll a second serve them all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._bells: dict[str, set[threading.Event]] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def count(self) -> int:
        """How many wait now."""
        return self._count

    @contextmanager
    def enter(self, object_id: str) -> Iterator[threading.Event | None]:
        """A bell that rings when the id changes, or None when no more may wait or the process is about to end."""
        bell = self._add(object_id)
        try:
            yield bell
        finally:
            if bell is not None:
                self._remove(object_id, bell)

    def heard(self, object_id: str) -> None:
        """Ring for whoever waits for this id."""
        with self._changed:
            for bell in self._bells.get(object_id, ()):
                bell.set()

    def waited(self, timeout: float) -> list[str]:
        """The ids waited for; blocks up to `timeout` seconds while there are none."""
        with self._changed:
            if not self._bells and not self._closed:
                self._changed.wait(timeout)
            return list(self._bells)

    def close(self) -> None:
        """Send everybody home, now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for bells in self._bells.values():
                for bell in bells:
                    bell.set()

    @property
    def closed(self) -> bool:
        """Whether the process is about to end."""
        return self._closed

    def _add(self, object_id: str) -> threading.Event | None:
        with self._changed:
            if self._closed or self._count >= self._most:
                return None
            bell = threading.Event()
            self._bells.setdefault(object_id, set()).add(bell)
            self._count += 1
            self._changed.notify_all()
            return bell

    def _remove(self, object_id: str, bell: threading.Event) -> None:
        with self._changed:
            self._count -= 1
            bells = self._bells[object_id]
            bells.discard(bell)
            if not bells:
                del self._bells[object_id]


class WaitForTask:
    """The use case of `?wait=`."""

    def __init__(self, reader: ReadTasks, waiters: Waiters, watch: Callable[[], None], clock: Clock) -> None:
        """`watch` sees to it that somebody rings; it is called before each wait and must be quick."""
        self._reader = reader
        self._waiters = waiters
        self._watch = watch
        self._clock = clock

    def wait(
        self, client_id: str, task_id: str, seconds: float, gone: Callable[[], bool] = lambda: False
    ) -> TaskRow:
        """The task as soon as it has ended, or as it stands after `seconds` (at most 60).

        1. Listen, then read: an end between the two is heard.
        2. Wait for the bell with nothing held, read again, until it has ended, the time is up or the client is `gone`:
           its place is another's then.

        Raises NotFound, DatabaseUnreachable.
        """
        self._watch()
        deadline = self._clock.monotonic() + min(seconds, LONGEST_WAIT)
        with self._waiters.enter(task_id) as bell:
            row = self._reader.task(client_id, task_id)
            while bell is not None and not row.status.ended:
                left = deadline - self._clock.monotonic()
                if left <= 0 or self._waiters.closed or gone():
                    break
                if bell.wait(min(left, LOOK_EVERY)):
                    bell.clear()
                    row = self._reader.task(client_id, task_id)
        return row
