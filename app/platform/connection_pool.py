"""The one pool of HTTP connections that are kept open between uses, to upstreams and to callback receivers alike."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from urllib3.connection import HTTPConnection
from urllib3.util.connection import is_connection_dropped

K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=HTTPConnection)


@dataclass(slots=True)
class PooledConnection(Generic[K, C]):
    """A connection in use by one thread. Set `reusable` once the last answer was read to its end."""

    origin: K
    connection: C
    opened_at: float  # by the pool's clock, as `idle_since`
    idle_since: float
    reusable: bool = False


class ConnectionPool(Generic[K, C]):
    """Idle connections by origin. Any thread may call it; `_lock` guards the fields, and no I/O happens under it.

    The newest connection of an origin is used first; the one idle for longest goes when there are too many. There is no
    limit on connections in use: callers limit themselves, with permits or host slots.
    """

    def __init__(
        self,
        *,
        max_idle: int,
        idle_seconds: float = math.inf,
        max_age: float = math.inf,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep up to `max_idle`, each for `idle_seconds` between uses and `max_age` seconds in all."""
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._max_age = max_age
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, PooledConnection[K, C]] = OrderedDict()
        self._closed = False
        self.opened = 0  # in its life

    def reuse(self, origin: K) -> PooledConnection[K, C] | None:
        """An idle connection that still looks open, or None."""
        while (pooled := self._newest(origin)) is not None:
            if self._is_fresh(pooled) and not is_connection_dropped(pooled.connection):
                return pooled
            pooled.connection.close()
        return None

    def open(self, origin: K, connect: Callable[[], C]) -> PooledConnection[K, C]:
        """A new connection, made by `connect`. Raises what that raises."""
        connection, now = connect(), self._monotonic()
        with self._lock:
            self.opened += 1
        return PooledConnection(origin, connection, now, now)

    def release(self, pooled: PooledConnection[K, C]) -> None:
        """Keep the connection for another use if it is reusable, else close it."""
        pooled.idle_since = self._monotonic()
        extra: PooledConnection[K, C] | None = pooled
        if pooled.reusable and pooled.connection.sock is not None and self._is_fresh(pooled):
            pooled.reusable = False
            extra = self._keep(pooled)
        if extra is not None:
            extra.connection.close()

    def close(self) -> None:
        """Close idle connections now, and those in use when they are released."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, OrderedDict()
        for pooled in idle.values():
            pooled.connection.close()

    def _keep(self, pooled: PooledConnection[K, C]) -> PooledConnection[K, C] | None:
        """Returns the connection to close instead, if any."""
        with self._lock:
            if self._closed:
                return pooled
            self._idle[id(pooled)] = pooled
            return self._idle.popitem(last=False)[1] if len(self._idle) > self._max_idle else None

    def _newest(self, origin: K) -> PooledConnection[K, C] | None:
        with self._lock:
            key = next((key for key, pooled in reversed(self._idle.items()) if pooled.origin == origin), None)
            return None if key is None else self._idle.pop(key)

    def _is_fresh(self, pooled: PooledConnection[K, C]) -> bool:
        now = self._monotonic()
        return now - pooled.opened_at < self._max_age and now - pooled.idle_since < self._idle_seconds
