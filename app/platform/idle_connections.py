"""Connections kept open between uses: for a short while, and not too many."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from urllib3.util.connection import is_connection_dropped

KEEP_SECONDS = 15.0
MOST = 256


class Closable(Protocol):
    """A urllib3 connection, as far as it matters here."""

    def close(self) -> None:
        """Close the socket."""


K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Closable)


class IdleConnections(Generic[K, C]):
    """The newest connection of an origin is used first; the oldest of all goes when there are too many."""

    def __init__(self, keep_seconds: float = KEEP_SECONDS, most: int = MOST) -> None:
        self._keep_seconds = keep_seconds
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[K, C, float]] = OrderedDict()

    def take(self, origin: K) -> C | None:
        """A connection to this origin that still looks open, or None."""
        while (found := self._newest(origin)) is not None:
            connection, since = found
            if time.monotonic() - since < self._keep_seconds and not is_connection_dropped(connection):  # type: ignore[arg-type]
                return connection
            connection.close()
        return None

    def keep(self, origin: K, connection: C) -> None:
        """Keep a connection whose last answer was read to its end."""
        extra: C | None = None
        with self._lock:
            self._kept[id(connection)] = (origin, connection, time.monotonic())
            if len(self._kept) > self._most:
                _, (_, extra, _) = self._kept.popitem(last=False)
        if extra is not None:
            extra.close()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            kept, self._kept = self._kept, OrderedDict()
        for _, connection, _ in kept.values():
            connection.close()

    def _newest(self, origin: K) -> tuple[C, float] | None:
        with self._lock:
            for key, (owner, connection, since) in reversed(self._kept.items()):
                if owner == origin:
                    del self._kept[key]
                    return connection, since
        return None
