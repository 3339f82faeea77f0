"""Streamed answers on their way from a worker to whoever waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import redis

from app.platform.domain.errors import RedisUnreachable
from app.platform.redis_scripts import Scripts
from app.upstreams.domain.chat_stream import Piece


class StreamWriter(Protocol):
    """Where a worker publishes streamed answers."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Publish a piece. Never raises: a lost piece is noticed by its number."""


class NoStreams:
    """Publishes nothing."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Do nothing."""


class Subscription(Protocol):
    """One listener to the stream of one task, used by one thread."""

    def next(self, seconds: float) -> Piece | None:
        """The next piece, None if there is none within `seconds`. Raises RedisUnreachable."""


class StreamReader(Protocol):
    """Where the API reads streamed answers."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Listen from now on to the stream of a task. Raises RedisUnreachable."""


class NoStreamReader:
    """No streams: answers arrive whole."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Raises RedisUnreachable."""
        raise RedisUnreachable(f"no stream of {task_id}: streaming is not set up")


_PREFIX = "penstock:stream:"
_CONFIRM_SECONDS = 1.0


class RedisStreamWriter:
    """Implements the StreamWriter port."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def send(self, task_id: str, piece: Piece) -> None:
        """Publish a piece."""
        with suppress(RedisUnreachable):
            self._scripts.command("PUBLISH", _PREFIX + task_id, piece.encode())


class RedisStreamReader:
    """Implements the StreamReader port; each listener has its own connection of the pool."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @contextmanager
    def listen(self, task_id: str) -> Iterator[RedisSubscription]:
        """Subscribe, and wait until Redis confirms it. Raises RedisUnreachable."""
        channel = self._client.pubsub()  # type: ignore[no-untyped-call]
        try:
            with _translated():
                channel.subscribe(_PREFIX + task_id)
                if channel.get_message(timeout=_CONFIRM_SECONDS) is None:
                    raise RedisUnreachable("Redis does not acknowledge a subscription")
            yield RedisSubscription(channel)
        finally:
            with suppress(redis.RedisError, OSError):
                channel.close()


class RedisSubscription:
    """Implements the Subscription port."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def next(self, seconds: float) -> Piece | None:
        """The next piece. A broken connection may have lost some, so it raises."""
        until = time.monotonic() + seconds
        with _translated():
            while (left := until - time.monotonic()) > 0:
                news = self._channel.get_message(timeout=left)
                if news is not None and news["type"] == "message":
                    return Piece.decode(news["data"])
        return None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError, ValueError) as error:
        raise RedisUnreachable(f"Redis does not answer: {type(error).__name__}") from error
