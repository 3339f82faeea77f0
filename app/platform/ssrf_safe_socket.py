"""Sockets for addresses that strangers name: judged after the name is resolved, and under one deadline.

The name is resolved once for each socket; all addresses it gives are judged; the socket then connects to a
judged address by number. So there is no moment between check and use at which another answer could slip in.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

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
    """The end of a piece of work, in monotonic time."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

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
            self.settimeout(self.deadline.left())

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
