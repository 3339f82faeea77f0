"""Wait for a task to end, or follow a task or batch, without holding a database connection.

Waiters are notified by Redis at once, and by a poll of the database within a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.tasks.ports import Changes
from app.tasks.read_tasks import ReadTasks
from app.tasks.store.tasks import TaskRow, ended_among

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


POLL_EVERY = 1.0  # seconds: progress of a batch is no news that anybody publishes
ALIVE_EVERY = 10.0

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
        """Each state that differs from the one before; None now and then, while nothing does.

        It ends with the object, with the client's connection or with this process. When very many wait already,
        after the first state. Raises what `read` raises.
        """
        self._watch()
        with self._waiters.enter(object_id) as bell:
            last = read()
            yield last
            told_at = self._clock.monotonic()
            while bell is not None and not ended(last) and not gone() and not self._waiters.closed:
                bell.wait(POLL_EVERY)
                bell.clear()
                now = read()
                if now != last:
                    last, told_at = now, self._clock.monotonic()
                    yield last
                elif self._clock.monotonic() - told_at >= ALIVE_EVERY:
                    told_at = self._clock.monotonic()
                    yield None


POLL_SECONDS = 1.0


class WatchEndings:
    """Two threads of the process, started by the first who waits (so that they are born after a fork)."""

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
                    "listen-endings", lambda: listen(waiters.heard, self._stop), every=POLL_SECONDS
                )
            )

    def start(self) -> None:
        """Start the threads unless they run."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Send the waiters home and end the threads."""
        self._stop.set()
        self._waiters.close()
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join()

    def poll_once(self) -> None:
        """One statement for all who wait, whatever their number; a database out of reach is asked again later."""
        waited = self._waiters.waited(POLL_SECONDS)
        if not waited:
            return
        try:
            ended = self._database.read(lambda conn: ended_among(conn, waited))
        except DatabaseUnreachable:
            return
        for object_id in ended:
            self._waiters.heard(object_id)


CHANNEL = "penstock:done"  # each message is the id of a task or batch
_PAUSE_SECONDS = 1.0  # before connecting again


class RedisChanges:
    """Listens on a connection of its own, and connects again whenever that breaks."""

    def __init__(self, url: str) -> None:
        self._url = url

    def listen(self, heard: Callable[[str], None], stop: threading.Event) -> None:
        """Call `heard` with each id until `stop` is set. News sent while the connection is broken are lost."""
        while not stop.is_set():
            client = redis.Redis.from_url(
                self._url,
                socket_connect_timeout=2,
                socket_timeout=5,
                health_check_interval=10,
                decode_responses=True,
            )
            try:
                _pass_on(client, heard, stop)
            except (redis.RedisError, OSError):
                stop.wait(_PAUSE_SECONDS)
            finally:
                client.close()


def _pass_on(client: redis.Redis, heard: Callable[[str], None], stop: threading.Event) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(CHANNEL)
        while not stop.is_set():
            news = channel.get_message(timeout=0.5)
            if news is not None:
                heard(str(news["data"]))
