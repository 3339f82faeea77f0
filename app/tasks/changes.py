"""News of ended tasks and batches, by Redis' publish and subscribe."""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis

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
