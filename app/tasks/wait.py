"""Wait for a task to end, or follow a task or batch, without holding a database connection.

Waiters are notified by Redis at once, and by a poll of the database within a second.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.tasks.domain.rows import TaskRow
from app.tasks.ports import Changes
from app.tasks.read_tasks import ReadTasks
from app.tasks.store.tasks import ended_among

LONGEST_WAIT = 60.0  # seconds
_LEAVINGS, _LATELY = (
    100,
    60.0,
)  # how many places that became free are remembered, and for how many seconds they count
_LONGEST_PROMISE = 100.0  # seconds
LOOK_EVERY = 5.0  # seconds between checks that the client is still connected: each wakes a thread


class Waiters:
    """Registry of who waits for which id in this process. One notifier and one poll a second serve all of them.

    Request threads enter, the notifier's and the poll's wake them; `_changed` guards the fields.
    """

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._left_at: deque[float] = deque(maxlen=_LEAVINGS)
        self._promised = 0.0  # when the place is free that the last refused one was asked to come back for
        self._count = 0
        self._events: dict[str, set[threading.Event]] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def count(self) -> int:
        """How many wait now."""
        return self._count

    @contextmanager
    def enter(self, object_id: str) -> Iterator[threading.Event | None]:
        """An event that is set when the id changes; None when the limit is reached or the process is stopping."""
        event = self._add(object_id)
        try:
            yield event
        finally:
            if event is not None:
                self._remove(object_id, event)

    def next_place(self) -> float:
        """Seconds until a place is likely to be free for one who is refused now, behind those refused before.

        From how fast places became free lately; 1 to 100, since OpenAI clients heed no more than 120.
        """
        with self._changed:
            now = self._monotonic()
            lately = [at for at in self._left_at if now - at <= _LATELY]
            each = (now - lately[0]) / len(lately) if lately else 1.0
            self._promised = min(max(self._promised, now) + each, now + _LONGEST_PROMISE)
            return max(1.0, self._promised - now)

    def notify(self, object_id: str) -> None:
        """Set the events of everyone who waits for this id."""
        with self._changed:
            for event in self._events.get(object_id, ()):
                event.set()

    def waited_ids(self, timeout: float) -> list[str]:
        """The ids that someone waits for; blocks up to `timeout` seconds while there are none."""
        with self._changed:
            if not self._events and not self._closed:
                self._changed.wait(timeout)
            return list(self._events)

    def close(self) -> None:
        """Wake all waiters and accept no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for events in self._events.values():
                for event in events:
                    event.set()

    @property
    def closed(self) -> bool:
        """Whether the process is stopping."""
        return self._closed

    def _add(self, object_id: str) -> threading.Event | None:
        with self._changed:
            if self._closed or self._count >= self._limit:
                return None
            event = threading.Event()
            self._events.setdefault(object_id, set()).add(event)
            self._count += 1
            self._changed.notify_all()
            return event

    def _remove(self, object_id: str, event: threading.Event) -> None:
        with self._changed:
            self._count -= 1
            self._left_at.append(self._monotonic())
            events = self._events[object_id]
            events.discard(event)
            if not events:
                del self._events[object_id]


class WaitForTask:
    """The use case of `?wait=`."""

    def __init__(self, reader: ReadTasks, waiters: Waiters, watch: Callable[[], None], clock: Clock) -> None:
        """`watch` starts the notifier if it is not running; it is called before each wait and must be quick."""
        self._reader = reader
        self._waiters = waiters
        self._watch = watch
        self._clock = clock

    def wait(
        self, client_id: str, task_id: str, seconds: float, gone: Callable[[], bool] = lambda: False
    ) -> TaskRow:
        """The task as soon as it has ended, or as it is after `seconds` (at most 60).

        1. Register, then read: an end between the two sets the event.
        2. Wait without a connection and read again, until the task has ended, the time is up or the client is `gone`.

        Raises NotFound, DatabaseUnreachable.
        """
        self._watch()
        deadline = self._clock.monotonic() + min(seconds, LONGEST_WAIT)
        with self._waiters.enter(task_id) as event:
            row = self._reader.task(client_id, task_id)
            while event is not None and not row.status.ended:
                left = deadline - self._clock.monotonic()
                if left <= 0 or self._waiters.closed or gone():
                    break
                if event.wait(min(left, LOOK_EVERY)):
                    event.clear()
                    row = self._reader.task(client_id, task_id)
        return row


POLL_EVERY = 1.0  # seconds: nobody publishes the progress of a batch
ALIVE_EVERY = 10.0  # seconds without a change until None is yielded

T = TypeVar("T")


class FollowObject:
    """The use case of `/events`."""

    def __init__(self, waiters: Waiters, watch: Callable[[], None], clock: Clock) -> None:
        self._waiters = waiters
        self._watch = watch
        self._clock = clock

    def states(
        self, object_id: str, read: Callable[[], T], ended: Callable[[T], bool], gone: Callable[[], bool]
    ) -> Iterator[T | None]:
        """Each state that differs from the one before; None every 10 seconds while nothing changes.

        Ends with the object, the client's connection or this process; after the first state when the limit of waiters
        is reached. Raises what `read` raises.
        """
        self._watch()
        with self._waiters.enter(object_id) as event:
            last = read()
            yield last
            sent_at = self._clock.monotonic()
            while event is not None and not ended(last) and not gone() and not self._waiters.closed:
                event.wait(POLL_EVERY)
                event.clear()
                now = read()
                if now != last:
                    last, sent_at = now, self._clock.monotonic()
                    yield last
                elif self._clock.monotonic() - sent_at >= ALIVE_EVERY:
                    sent_at = self._clock.monotonic()
                    yield None


POLL_SECONDS = 1.0


class WatchEndings:
    """Two threads of the process, started by the first waiter (so that they start after a fork)."""

    def __init__(self, waiters: Waiters, database: Database, changes: Changes | None) -> None:
        self._waiters = waiters
        self._database = database
        self._stop = threading.Event()
        self._loops = [
            BackgroundLoop(
                "poll-endings",
                self.poll_once,
                every=POLL_SECONDS,
                at_once=False,
                backoff=(POLL_SECONDS, POLL_SECONDS),
            )
        ]
        if changes is not None:
            listen = changes.listen
            self._loops.append(
                BackgroundLoop(
                    "listen-endings", lambda: listen(waiters.notify, self._stop), every=POLL_SECONDS
                )
            )

    def start(self) -> None:
        """Start the threads unless they run."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Wake the waiters and stop the threads."""
        self._stop.set()
        self._waiters.close()
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join()

    def poll_once(self) -> None:
        """Read all awaited ids in one statement; an unreachable database is asked again later."""
        waited = self._waiters.waited_ids(POLL_SECONDS)
        if not waited:
            return
        try:
            ended = self._database.read(lambda conn: ended_among(conn, waited))
        except DatabaseUnreachable:
            return
        for object_id in ended:
            self._waiters.notify(object_id)


CHANNEL = "penstock:done"  # each message is the id of a task or batch
_PAUSE_SECONDS = 1.0  # before reconnecting


class RedisChanges:
    """Listens on a connection of its own and reconnects whenever it breaks."""

    def __init__(self, url: str) -> None:
        self._url = url

    def listen(self, notify: Callable[[str], None], stop: threading.Event) -> None:
        """Call `notify` with each id until `stop` is set. Messages sent while the connection is broken are lost."""
        while not stop.is_set():
            client = redis.Redis.from_url(
                self._url,
                socket_connect_timeout=2,
                socket_timeout=5,
                health_check_interval=10,
                decode_responses=True,
            )
            try:
                _pass_on(client, notify, stop)
            except (redis.RedisError, OSError):
                stop.wait(_PAUSE_SECONDS)
            finally:
                client.close()


def _pass_on(client: redis.Redis, notify: Callable[[str], None], stop: threading.Event) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(CHANNEL)
        while not stop.is_set():
            news = channel.get_message(timeout=0.5)
            if news is not None:
                notify(str(news["data"]))
