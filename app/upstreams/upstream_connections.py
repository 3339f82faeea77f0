"""Connections to one upstream: as many as there are calls, used again, at most 10 minutes old."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import is_connection_dropped
from urllib3.util.request import make_headers

from app.platform.ports import Clock
from app.platform.ssrf_safe_socket import Deadline, DeadlineSocket, TimedTLSSocket
from app.settings import ConfigError, UpstreamHeaders, UpstreamSettings

LONGEST_AGE = 600.0  # seconds; a provider that moves to other addresses is followed within that time
_TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class _Timed(HTTPConnection):
    """urllib3's connection on a socket whose every wait ends at the call's deadline."""

    opened_at = 0.0

    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        timeout = plain.gettimeout()
        timed = DeadlineSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        timed.settimeout(timeout)
        if timeout is not None:
            timed.deadline = Deadline(timeout)  # a proxy has to let us through within that time, too
        return timed


class _TimedTLS(HTTPSConnection, _Timed):
    """The same over TLS; the context makes the timed socket around it."""


@dataclass(slots=True)
class PooledConnection:
    """A connection lent for one call. `clean`: nothing of that call is left on it, it may serve another."""

    connection: _Timed
    clean: bool = True

    @property
    def socket(self) -> DeadlineSocket | TimedTLSSocket:
        """The open socket under it."""
        return cast("DeadlineSocket | TimedTLSSocket", self.connection.sock)


class ConnectionPool:
    """The newest idle connection is used first. Without a limit of its own: who calls, holds a permit."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        most_idle: int,
        clock: Clock,
        outfit: UpstreamHeaders | None = None,
    ) -> None:
        """Up to `most_idle` are kept open. Raises ConfigError when the `ca_file` holds no certificate."""
        address = urlsplit(upstream.base_url)
        self._host = address.hostname or ""
        self._port = address.port
        self._connect_timeout = upstream.connect_timeout
        self._tls = tls_rules(upstream) if address.scheme == "https" else None
        if self._tls is not None:
            self._tls.sslsocket_class = TimedTLSSocket
        outfit = outfit or UpstreamHeaders(upstream.headers)
        self._proxy = urlsplit(upstream.proxy) if upstream.proxy else None
        auth = dict(make_headers(proxy_basic_auth=outfit.proxy_auth)) if outfit.proxy_auth else {}
        self._tunnel_headers = auth
        forwarded = self._proxy is not None and self._tls is None
        # What the request line begins with, and which headers go with it: a proxy that is no tunnel needs both.
        self.base = f"{address.scheme}://{address.netloc}" if forwarded else ""
        self.headers = {
            **{name.lower(): value for name, value in outfit.headers.items()},
            **(auth if forwarded else {}),
        }
        self._most_idle = most_idle
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[_Timed] = []
        self._closed = False
        self.opened = 0  # in its life

    def borrow(self) -> PooledConnection:
        """An open connection that still looks well, or a new one. Raises what urllib3 raises."""
        while (connection := self._newest()) is not None:
            if self._is_young(connection) and not is_connection_dropped(connection):
                return PooledConnection(connection)
            connection.close()
        return PooledConnection(self._open())

    def give_back(self, loan: PooledConnection) -> None:
        """Keep the connection for another call if it is clean, else close it."""
        connection = loan.connection
        with self._lock:
            room = not self._closed and len(self._idle) < self._most_idle
            if loan.clean and room and connection.sock is not None and self._is_young(connection):
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the idle ones; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _newest(self) -> _Timed | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _is_young(self, connection: _Timed) -> bool:
        return self._clock.monotonic() - connection.opened_at < LONGEST_AGE

    def _open(self) -> _Timed:
        connection = self._new()
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.opened_at = self._clock.monotonic()
        with self._lock:
            self.opened += 1
        return connection

    def _new(self) -> _Timed:
        proxy = self._proxy
        host, port = (self._host, self._port) if proxy is None else (proxy.hostname or "", proxy.port)
        if self._tls is None:
            return _Timed(host, port, timeout=self._connect_timeout)
        secured = _TimedTLS(host, port, timeout=self._connect_timeout, ssl_context=self._tls)
        if proxy is not None:
            secured.set_tunnel(self._host, self._port or 443, headers=self._tunnel_headers)
        return secured


def tls_rules(upstream: UpstreamSettings) -> ssl.SSLContext:
    """Whom to trust and what to speak at least. Raises ConfigError when the `ca_file` holds no certificate."""
    context = ssl.create_default_context()
    if upstream.min_tls is not None:
        context.minimum_version = _TLS[upstream.min_tls]
    if upstream.ca_file:
        try:
            context.load_verify_locations(Path(upstream.ca_file).expanduser())
        except OSError as error:  # ssl's own errors are of that kind
            said = error.strerror if not isinstance(error, ssl.SSLError) else "no certificate in it"
            what = f'ca_file of upstream "{upstream.name}": cannot be used ({said})'
            hint = "name a PEM file with the certificates of the authorities to trust"
            raise ConfigError(upstream.ca_file, None, what, hint) from None
    return context
