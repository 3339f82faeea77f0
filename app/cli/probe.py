"""Asking whether a part works."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from app.cli.failure import CommandFailure, Exit

SECONDS = 1.0
# No proxy stands between this machine and itself.
_opener = build_opener(ProxyHandler({}))


def answers(url: str) -> Callable[[], bool]:
    """A probe: whether `url` answers 200 within a second."""

    def ask() -> bool:
        try:
            with _opener.open(url, timeout=SECONDS) as response:
                return bool(response.status == 200)
        except (URLError, OSError, http.client.HTTPException):
            return False

    return ask


def leads(redis_url: str) -> Callable[[], bool]:
    """A probe: whether a dispatcher leads and has opened the gate for the Redis that runs now."""
    import redis

    client = redis.Redis.from_url(
        redis_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS, decode_responses=True
    )

    def ask() -> bool:
        try:
            return bool(client.hget("penstock:gate", "run_id") == client.info("server")["run_id"])
        except redis.RedisError:
            return False

    return ask


def require_redis(redis_url: str) -> None:
    """A given Redis must be there at the start; later it may come and go. Raises Failure."""
    import redis

    try:
        with redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except redis.RedisError as error:
        mend = "Start it, correct REDIS_URL, or unset it: a Redis of our own is started then."
        raise CommandFailure(
            f"no Redis answers at REDIS_URL ({type(error).__name__})", mend, Exit.UNREACHABLE
        ) from None
