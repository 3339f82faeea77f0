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
    """Where a worker passes streamed answers on, to whoever waits for them."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Pass a piece on. What cannot be is lost, and found missing by its number. Never raises."""


class NoStreams:
    """Nobody waits."""

    def send(self, task_id: str, piece: Piece) -> None:
        """Passes nothing on."""


class Subscription(Protocol):
    """One listener at the stream of one task."""

    def next(self, seconds: float) -> Piece | None:
        """The next piece; None when none came within so many seconds. Raises RedisUnreachable."""


class StreamReader(Protocol):
    """Where streamed answers come from."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Listen, from now on, to what is passed on of a task. Raises RedisUnreachable."""


class NoStreamReader:
    """Nothing is passed on: answers come whole."""

    def listen(self, task_id: str) -> AbstractContextManager[Subscription]:
        """Raises RedisUnreachable."""
        raise RedisUnreachable(f"nobody passes on what comes of {task_id}")


_PREFIX = "penstock:stream:"


class RedisStreamWriter:
    """Implements the StreamWriter port."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def send(self, task_id: str, piece: Piece) -> None:
        """Publish a piece."""
        with suppress(RedisUnreachable):
            self._scripts.command("PUBLISH", _PREFIX + task_id, piece.encode())


class RedisStreamReader:
    """Implements the StreamReader port; each listener has a connection of the pool to itself."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @contextmanager
    def listen(self, task_id: str) -> Iterator[RedisSubscription]:
        """Subscribe, and wait until Redis says that it is so. Raises RedisUnreachable."""
        channel = self._client.pubsub()  # type: ignore[no-untyped-call]
        try:
            with _translated():
                channel.subscribe(_PREFIX + task_id)
                if channel.get_message(timeout=_ACKNOWLEDGED_WITHIN) is None:
                    raise RedisUnreachable("Redis does not acknowledge a subscription")
            yield RedisSubscription(channel)
        finally:
            with suppress(redis.RedisError, OSError):
                channel.close()


_ACKNOWLEDGED_WITHIN = 1.0  # seconds


class RedisSubscription:
    """Implements the Subscription port."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def next(self, seconds: float) -> Piece | None:
        """The next piece. A connection that broke may have lost some: that is an error, not a wait."""
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
