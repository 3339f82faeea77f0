"""HTTP connections to others: sockets that connect only where the rules allow and end at a deadline, and their pool."""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from urllib3.connection import HTTPConnection
from urllib3.util.connection import is_connection_dropped

from app.platform.domain.url_rules import TargetRules

# (host, port) -> numeric addresses. Raises OSError when the name has none.
Resolver = Callable[[str, int], Sequence[str]]


class AddressRefused(OSError):
    """The name leads to an address that callbacks may not reach. `addresses` are for the operator alone."""

    def __init__(self, message: str, addresses: Sequence[str]) -> None:
        super().__init__(message)
        self.addresses = tuple(addresses)


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a name, as this machine resolves it, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Deadline:
    """The end of a piece of work, in monotonic time. `longest_wait`: for a single read or write, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self.longest_wait: float | None = None

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._at

    def hurry(self, seconds: float) -> None:
        """End after `seconds` from now, if it would not end sooner."""
        self._at = min(self._at, time.monotonic() + seconds)

    def left(self, most: float | None = None) -> float:
        """Seconds left, `most` at most. Raises TimeoutError when none are."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("no time left")
        return left if most is None else min(left, most)


class DeadlineSocket(socket.socket):
    """A TCP socket whose every wait ends at one deadline: a byte a second does not stretch it."""

    deadline: Deadline | None = None

    def _arm(self) -> None:
        if self.deadline is not None:
            self.settimeout(self.deadline.left(self.deadline.longest_wait))

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        """As socket's. Raises TimeoutError at the deadline. What TLS within TLS reads by."""
        self._arm()
        return super().recv(*args, **kwargs)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """As socket's. Raises TimeoutError at the deadline."""
        self._arm()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        """As socket's. Raises TimeoutError at the deadline. What `sendall` of a TLS socket is made of."""
        self._arm()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """As socket's. Raises TimeoutError at the deadline."""
        self._arm()
        super().sendall(*args, **kwargs)


class TimedTLSSocket(DeadlineSocket, ssl.SSLSocket):
    """The same over TLS."""


def open_socket(
    host: str,
    port: int,
    rules: TargetRules,
    deadline: Deadline,
    resolver: Resolver = system_resolver,
    connect_seconds: float = 5.0,
) -> DeadlineSocket:
    """Resolve, judge, connect.

    1. Resolve the name, once.
    2. Refuse if any of its addresses is refused.
    3. Connect to the addresses in turn, each within `connect_seconds`, all within the deadline.

    Raises AddressRefused, TimeoutError, OSError.
    """
    addresses = _resolve(host, port, resolver, deadline)
    refusal = rules.refuse_any(addresses)
    if refusal is not None:
        raise AddressRefused(refusal, addresses)
    failure: OSError = OSError("the host name has no address")
    for address in addresses:
        try:
            return _connect(address, port, deadline, connect_seconds)
        except OSError as error:
            failure = error
    raise failure


def _connect(address: str, port: int, deadline: Deadline, connect_seconds: float) -> DeadlineSocket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = DeadlineSocket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.settimeout(deadline.left(connect_seconds))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((address, port))
        sock.settimeout(deadline.left())
    except BaseException:
        sock.close()
        raise
    return sock


def _resolve(host: str, port: int, resolver: Resolver, deadline: Deadline) -> Sequence[str]:
    """Ask the resolver in a thread of its own: nothing else can end a look-up that nobody answers."""
    answers: list[Sequence[str] | OSError] = []
    done = threading.Event()

    def ask() -> None:
        try:
            answers.append(resolver(host, port))
        except OSError as error:
            answers.append(error)
        except UnicodeError:
            answers.append(OSError("not a host name"))
        finally:
            done.set()

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    if not done.wait(deadline.left()) or not answers:
        raise TimeoutError("the host name was not resolved in time")
    answer = answers[0]
    if isinstance(answer, OSError):
        raise answer
    return answer


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
