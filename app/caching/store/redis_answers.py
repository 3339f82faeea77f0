"""Cached answers in a Redis of their own (CACHE_URL), shared by all processes. Without an answer in time, it counts as
empty."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
import structlog

from app.caching.domain.caching import CachedAnswer, Eviction, read, write
from app.platform.encryption import Unsealable, seal, unseal
from app.platform.ports import Clock
from app.platform.redis_scripts import connect
from app.tasks.domain.task import new_id

log = structlog.get_logger("penstock.cache")

TIMEOUT = 0.25  # seconds: a cache must not delay submissions
_PAUSE = 1.0  # seconds without requests after a failure
_PREFIX = "penstock:cache:"
_INDEX = {"lru": f"{_PREFIX}used", "lfu": f"{_PREFIX}uses"}  # entries by last use, by number of uses
_EXPIRIES = f"{_PREFIX}expiries"  # index of entries by expiry
_REPLACED = f"{_PREFIX}replaced"  # when an entry was last replaced
_FOLDER = Path(__file__).with_name("cache_lua")
_AT_ONCE = 500  # entries in one script


class RedisAnswers:
    """Implements the AnswerCache port; bounded by number, use and age."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        entries: int,
        longest_seconds: float,
        eviction: Eviction = "lru",
        stale_seconds: float = 0.0,
        broker_url: str | None = None,
    ) -> None:
        """`stale_seconds`: how long expired answers remain; `broker_url`: a database that it must not share, checked at
        the first request.
        """
        self._client = connect(url, timeout=TIMEOUT)
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._eviction = eviction
        self._index = _INDEX[eviction]
        self._limits = (entries, int(longest_seconds + stale_seconds), eviction)
        self._broker_url = broker_url
        self._silent_until = 0.0
        self._look = self._client.register_script((_FOLDER / "look.lua").read_text("utf-8"))
        self._keep = self._client.register_script((_FOLDER / "keep.lua").read_text("utf-8"))

    def look(self, keys: Collection[str], *, stale: bool = False) -> Mapping[str, CachedAnswer]:
        """The cached answers, by key. Never raises."""
        wanted, found, now = list(keys), {}, self._clock.now()
        for start in range(0, len(wanted), _AT_ONCE):
            chunk = wanted[start : start + _AT_ONCE]
            names = [_PREFIX + key for key in chunk]
            entries = self._run(self._look, [self._index, *names], [self._eviction])
            for key, entry in zip(chunk, entries or (), strict=False):
                answer = _answer(key, entry) if entry else None
                if answer is not None and (stale or answer.is_fresh(now)):
                    found[key] = answer
        return found

    def count_uses(self, uses: Mapping[str, int]) -> None:
        """Record uses of answers that were not read from here. Never raises."""
        names = [_PREFIX + key for key in uses]
        self._run(self._look, [self._index, *names], [self._eviction, *uses.values()])

    def keep(self, key: str, answer: CachedAnswer, seconds: float) -> None:
        """Cache an answer, replacing an older one. Never raises."""
        milliseconds = max(1, int((seconds + self._stale_seconds) * 1000))
        keys = [self._index, _PREFIX + key, _REPLACED, _EXPIRIES]
        answer = replace(answer, until=self._clock.now() + seconds)
        self._run(self._keep, keys, [seal(write(key, answer)), milliseconds, *self._limits])

    def stamp(self) -> str | None:
        """When an entry was last replaced, by the Redis server's clock. Never raises."""
        (said,) = self._run(self._look, [self._index, _REPLACED], [self._eviction]) or (None,)
        if said is None:
            return "" if self._clock.monotonic() >= self._silent_until else None
        return str(said.decode())

    def count(self) -> int | None:
        """How many answers it holds, evicted or expired ones aside. Never raises."""
        try:
            return int(self._client.zcard(self._index))
        except (redis.exceptions.RedisError, OSError):
            return None

    def clear(self, scope: str | None) -> int | None:
        """Remove all answers, or those of one scope. Never raises."""
        pattern = f"{_PREFIX}*" if scope is None else f"{_PREFIX}{_literal(scope)}:*"
        removed = 0
        try:
            cursor: Any = None
            while cursor != 0:
                cursor, names = self._client.scan(cursor or 0, match=pattern, count=_AT_ONCE)
                removed += self._remove([name for name in map(_text, names) if name not in _OWN])
            self._client.set(_REPLACED, new_id("stamp", self._clock.now()))
        except (redis.exceptions.RedisError, OSError) as error:
            log.warning("the cache was not cleared", error=type(error).__name__)
            return None
        return removed

    def _remove(self, names: Sequence[str]) -> int:
        if not names:
            return 0
        for index in (*_INDEX.values(), _EXPIRIES):
            self._client.zrem(index, *names)
        return int(self._client.unlink(*names))

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


_OWN = frozenset({*_INDEX.values(), _EXPIRIES, _REPLACED})


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _literal(text: str) -> str:
    """The text as a pattern that matches only itself."""
    return re.sub(r"([\\*?\[\]^])", r"\\\1", text)


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
