"""Cached answers in a Redis of their own (CACHE_URL), shared by all processes. Without an answer in time, it counts as
empty."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
import structlog

from app.caching.domain.answer import CachedAnswer, read, write
from app.platform.encryption import Unsealable, seal, unseal
from app.platform.ports import Clock
from app.platform.redis_scripts import connect

log = structlog.get_logger("penstock.cache")

TIMEOUT = 0.25  # seconds: a cache must not delay submissions
_PAUSE = 1.0  # seconds without requests after a failure
_PREFIX = "penstock:cache:"
_USED = f"{_PREFIX}used"  # index of entries by last use
_REPLACED = f"{_PREFIX}replaced"  # when an entry was last replaced
_FOLDER = Path(__file__).with_name("cache_lua")
_AT_ONCE = 500  # entries in one script


class RedisAnswers:
    """Implements the AnswerCache port; bounded by number, use and age."""

    def __init__(
        self, url: str, clock: Clock, *, entries: int, longest_seconds: float, broker_url: str | None = None
    ) -> None:
        """`broker_url`: a database that it must not share; checked at the first request."""
        self._client = connect(url, timeout=TIMEOUT)
        self._clock = clock
        self._limits = (entries, int(longest_seconds))
        self._broker_url = broker_url
        self._silent_until = 0.0
        self._look = self._client.register_script((_FOLDER / "look.lua").read_text("utf-8"))
        self._keep = self._client.register_script((_FOLDER / "keep.lua").read_text("utf-8"))

    def look(self, keys: Collection[str]) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key. Never raises."""
        wanted, found = list(keys), {}
        for start in range(0, len(wanted), _AT_ONCE):
            chunk = wanted[start : start + _AT_ONCE]
            entries = self._run(self._look, [_USED, *(_PREFIX + key for key in chunk)], [])
            for key, entry in zip(chunk, entries or (), strict=False):
                answer = _answer(key, entry) if entry else None
                if answer is not None:
                    found[key] = answer
        return found

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Cache an answer, replacing an older one. Never raises."""
        milliseconds = max(1, int(seconds * 1000))
        keys = [_USED, _PREFIX + key, _REPLACED]
        answer = replace(answer, until=self._clock.now() + seconds)
        self._run(self._keep, keys, [seal(write(key, answer)), milliseconds, *self._limits])

    def stamp(self) -> str | None:
        """When an entry was last replaced, by the Redis server's clock. Never raises."""
        (said,) = self._run(self._look, [_USED, _REPLACED], []) or (None,)
        if said is None:
            return "" if self._clock.monotonic() >= self._silent_until else None
        return str(said.decode())

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        if self._clock.monotonic() < self._silent_until:
            return None
        try:
            if self._broker_url is not None and self._is_the_brokers():
                return None
            return script(keys=keys, args=arguments)
        except (redis.exceptions.RedisError, OSError) as error:
            self._silent_until = self._clock.monotonic() + _PAUSE
            log.warning("the cache is unreachable", error=type(error).__name__)
            return None

    def _is_the_brokers(self) -> bool:
        """Whether this is the database of REDIS_URL under another address; then it is never used."""
        assert self._broker_url is not None  # noqa: S101
        with connect(self._broker_url, timeout=TIMEOUT, connections=1) as broker:
            same = _identity(broker) == _identity(self._client)
        if not same:
            self._broker_url = None
            return False
        log.error("CACHE_URL is the same database as REDIS_URL; nothing is cached. Configure a separate one.")
        self._silent_until = float("inf")
        return True


def _answer(key: str, entry: bytes) -> CachedAnswer | None:
    try:
        return read(key, unseal(entry.decode()))
    except (Unsealable, ValueError):  # encrypted with another key, or not ours
        return None


def _identity(client: redis.Redis) -> tuple[str, int]:
    """The server's run id and the database number."""
    server: Any = client.info("server")
    number = client.connection_pool.connection_kwargs.get("db") or 0
    return str(server["run_id"]), int(number)
