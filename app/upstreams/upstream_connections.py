"""Connections to one upstream: as many as there are calls, reused, and at most 10 minutes old."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.request import make_headers

from app.platform.outgoing_connections import (
    ConnectionPool,
    Deadline,
    DeadlineSocket,
    PooledConnection,
    TimedTLSSocket,
)
from app.platform.ports import Clock
from app.settings import ConfigError, UpstreamHeaders, UpstreamSettings

LONGEST_AGE = 600.0  # seconds, within which a provider's change of addresses is followed
_TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class _Timed(HTTPConnection):
    """urllib3's connection on a socket whose every wait ends at the call's deadline."""

    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        timeout = plain.gettimeout()
        timed = DeadlineSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        timed.settimeout(timeout)
        if timeout is not None:
            timed.deadline = Deadline(timeout)  # covers the proxy's answer, too
        return timed


class _TimedTLS(HTTPSConnection, _Timed):
    """The same over TLS; the context wraps the socket in a TimedTLSSocket."""


Pooled = PooledConnection[None, _Timed]


def open_socket_of(pooled: Pooled) -> DeadlineSocket | TimedTLSSocket:
    """The open socket under a connection."""
    return cast("DeadlineSocket | TimedTLSSocket", pooled.connection.sock)


class UpstreamConnections:
    """Where an upstream is, how TLS and its proxy are spoken, and the pool of its connections. Threads share it."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        max_idle: int,
        clock: Clock,
        outfit: UpstreamHeaders | None = None,
    ) -> None:
        """Keep up to `max_idle` open between calls. Raises ConfigError when the `ca_file` holds no certificate."""
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
        # Prefix of the request line, and headers of every request: a proxy that does not tunnel needs both.
        self.base = f"{address.scheme}://{address.netloc}" if forwarded else ""
        self.headers = {
            **{name.lower(): value for name, value in outfit.headers.items()},
            **(auth if forwarded else {}),
        }
        self._pool: ConnectionPool[None, _Timed] = ConnectionPool(
            max_idle=max_idle, max_age=LONGEST_AGE, monotonic=clock.monotonic
        )

    @property
    def opened(self) -> int:
        """Connections opened so far."""
        return self._pool.opened

    def acquire(self) -> Pooled:
        """An open connection that still looks well, or a new one. Raises what urllib3 raises."""
        return self._pool.reuse(None) or self._pool.open(None, self._connect)

    def release(self, pooled: Pooled) -> None:
        """Keep the connection for another call if it is reusable, else close it."""
        self._pool.release(pooled)

    def close(self) -> None:
        """Close idle connections now, and those in use when they are released."""
        self._pool.close()

    def _connect(self) -> _Timed:
        connection = self._new()
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
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
    """Trusted authorities and the lowest version of TLS. Raises ConfigError when the `ca_file` holds no certificate."""
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
