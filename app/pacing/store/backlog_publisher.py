"""The backlog queues in Redis, as the API and the feeder see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from app.pacing.domain.backlog import write_place
from app.platform.domain.errors import RedisUnreachable
from app.platform.ports import Clock
from app.platform.redis_scripts import Scripts
from app.tasks.domain.attempt import Message, Refusal

WINDOW = 50_000  # messages of a backlog queue
WINDOW_OF_ALL = 500_000
MEMORY_SHARE = 0.6  # of maxmemory: above it kombu's own writes would soon fail, and a popped message be lost
_CHUNK = 200  # messages a script call: about 0.2 MB, a few milliseconds of Redis
_PAUSE = 1.0  # seconds in which Redis is not asked again after it failed

Encode = Callable[[Message], bytes]
SentEvent = Callable[[Message], tuple[str, bytes]]


class RedisBacklogPublisher:
    """Implements the BacklogPublisher port. An unreachable Redis is a refusal, never an error."""

    def __init__(
        self,
        scripts: Scripts,
        encode: Encode,
        clock: Clock,
        *,
        announce_sent: SentEvent | None = None,
        window: int = WINDOW,
        window_of_all: int = WINDOW_OF_ALL,
    ) -> None:
        """`announce_sent` makes the event (and its channel) that shows a task in Flower before a worker receives it."""
        self._scripts = scripts
        self._encode = encode
        self._announce_sent = announce_sent
        self._clock = clock
        self._limits = (window, window_of_all, MEMORY_SHARE)
        self._silent_until = 0.0
        self.term = ""  # the leader's, when its feeder publishes

    def believed_up(self) -> bool:
        """False for a second after Redis failed to answer."""
        return self._clock.monotonic() >= self._silent_until

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        """Put messages into their queues. Returns what was refused, by task id. See the port."""
        refused: dict[str, Refusal] = {}
        for start in range(0, len(messages), _CHUNK):
            chunk = messages[start : start + _CHUNK]
            refused.update(self._publish(chunk, self.term if feeding else ""))
        return refused

    def _publish(self, chunk: Sequence[Message], term: str) -> dict[str, Refusal]:
        unreachable: dict[str, Refusal] = {m.task_id: "unreachable" for m in chunk}
        if not self.believed_up():
            return unreachable
        channel, messages = "", list[str | int | float | bytes]()
        for m in chunk:
            event = b""
            if self._announce_sent is not None:
                channel, event = self._announce_sent(m)
            front = "1" if m.front else ""
            messages += (m.queue, int(m.step), m.task_id, write_place(m), front, self._encode(m), event)
        arguments = (term, *self._limits, channel, *messages)
        try:
            answer = self._scripts.run("publish", *arguments)
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE
            return unreachable
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return {chunk[int(at)].task_id: cast("Refusal", reason.decode()) for at, reason in pairs}

    def forget(self, task_ids: Iterable[str]) -> None:
        """Delete places, so that these messages are dropped at release, free of charge."""
        ids = list(task_ids)
        for start in range(0, len(ids), 1000):
            self._command("HDEL", "penstock:place", *ids[start : start + 1000])
        if ids:
            self._command("HSET", "penstock:gate", "void", "1")  # the leader reads all heads again

    def announce(self, task_ids: Iterable[str]) -> None:
        """Notify waiters in all processes that these tasks or batches changed, and wake the feeder."""
        for task_id in task_ids:
            self._command("PUBLISH", "penstock:done", task_id)
        self.wake()

    def wake(self) -> None:
        """Wake the feeder: rows wait in the database."""
        self._command("LPUSH", "penstock:wake:feeder", "1")

    def _command(self, *arguments: str) -> None:
        if not self.believed_up():
            return
        try:
            self._scripts.command(*arguments)
        except RedisUnreachable:
            self._silent_until = self._clock.monotonic() + _PAUSE


MOST = 10_000


class BacklogQueues:
    """Asked from Celery's main loop: it needs a client with a short timeout."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._last: list[str] = []

    def names(self) -> list[str]:
        """All of them in order of their names, at most 10,000; as last seen when Redis does not answer."""
        try:
            found = cast("list[bytes]", self._scripts.command("HKEYS", "penstock:queues"))
        except RedisUnreachable:
            return self._last
        self._last = sorted(name.decode() for name in found)[:MOST]
        return self._last
