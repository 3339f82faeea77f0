"""One call and its connection: deadline, stage, how another thread cuts it off; the answer, whole or streamed.

Connections to an upstream are reused, as many and as long as its settings say.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, urlsplit

from python_socks import ProxyError, ProxyType
from python_socks.sync import Proxy
from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.exceptions import HTTPError, NameResolutionError
from urllib3.response import BaseHTTPResponse
from urllib3.util.request import make_headers
from urllib3.util.ssltransport import SSLTransport

from app.platform.outgoing_connections import (
    ConnectionPool,
    Deadline,
    DeadlineSocket,
    PooledConnection,
    TimedTLSSocket,
)
from app.platform.ports import Clock
from app.settings import ConfigError, UpstreamHeaders, UpstreamSettings
from app.upstreams.domain.reply import TransportError, TransportErrorKind

# Everything that can go wrong on the way to an upstream and back.
TRANSPORT_EXCEPTIONS = (OSError, http.client.HTTPException, HTTPError, ValueError)


class IncompleteCall(Exception):
    """A call without a complete answer; `fault` says why."""

    def __init__(self, fault: TransportError) -> None:
        super().__init__(fault.message)
        self.fault = fault


def not_sent(why: str) -> IncompleteCall:
    """The error of a call that ended before anything was sent."""
    return IncompleteCall(TransportError(TransportErrorKind.NOT_SENT, f"Nothing was sent: {why}."))


class UpstreamCall:
    """A call from before its connection exists; `sending` and `reading` mark its stages.

    It belongs to the thread that makes the call. Others may only call `abort`; `_lock` guards what that touches.
    """

    def __init__(self, seconds: float, first_byte: float | None = None, idle: float | None = None) -> None:
        """`seconds`: for the whole call; `first_byte`: until its answer begins; `idle`: for a pause within it."""
        self.deadline = Deadline(seconds)
        self._seconds = seconds
        self._first_byte = first_byte
        self._idle = idle
        self._idling = False
        self._stage = TransportErrorKind.UNCONNECTED
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False
        self.sent_at: float | None = None  # Unix seconds

    def sending(self, sock: DeadlineSocket | TimedTLSSocket, at: float | None = None) -> None:
        """From now on bytes may reach the upstream; `at` in Unix seconds. Raises IncompleteCall if already aborted."""
        with self._lock:
            if self._aborted:
                raise not_sent("the worker is stopping")
            self._socket = sock
        self._stage = TransportErrorKind.BROKEN
        self.sent_at = at
        self.deadline.longest_wait = self._first_byte
        sock.deadline = self.deadline

    def reading(self, *, body: bool = False) -> None:
        """The answer has begun; `body`: not its head alone, so that from now on `idle` limits each pause."""
        self._stage = TransportErrorKind.CUT
        if body:
            self.deadline.longest_wait, self._idling = self._idle, True

    def abort(self) -> None:
        """Cut the call off: its thread sees the connection end. Any thread, any time."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                _shut(self._socket)

    def done(self) -> None:
        """Drop the socket, which may serve another call from now on."""
        with self._lock:
            self._socket = None

    def fault(self, error: Exception, status: int | None = None) -> TransportError:
        """What an error means at this stage, in words without anything that was sent or received."""
        if self._aborted and self._stage is not TransportErrorKind.UNCONNECTED:
            said = "The worker stopped before the answer was complete."
            return TransportError(TransportErrorKind.ABORTED, said, status, sent_at=self.sent_at)
        if self._stage is not TransportErrorKind.UNCONNECTED and _is_timeout(error):
            said = self._why_timed_out()
            return TransportError(TransportErrorKind.TIMED_OUT, said, status, sent_at=self.sent_at)
        said = _WORDS[self._stage] + _detail(error)
        return TransportError(self._stage, said, status, sent_at=self.sent_at)

    def _why_timed_out(self) -> str:
        waited = self.deadline.longest_wait
        if waited is None or self.deadline.over:
            return f"The upstream gave no complete answer within {self._seconds:g} s."
        if self._idling:
            return f"The upstream's answer stopped for {waited:g} s (idle_timeout)."
        return f"The upstream's answer did not begin within {waited:g} s (first_byte_timeout)."


_PROXY_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")  # http.client's words
_WORDS = {
    TransportErrorKind.UNCONNECTED: "No connection to the upstream: ",
    TransportErrorKind.BROKEN: "The connection to the upstream ended without an answer: ",
    TransportErrorKind.CUT: "The upstream's answer was cut off: ",
}


def _shut(sock: socket.socket) -> None:
    """Wake the reading thread. SSLSocket's own shutdown would take TLS away under it."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass


def _is_timeout(error: BaseException | None) -> bool:
    return any(isinstance(cause, TimeoutError) for cause in _causes(error))


def _detail(error: Exception) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, NameResolutionError | socket.gaierror) for cause in causes):
        return "its name could not be resolved."
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return "it took too long."
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS certificate not valid ({cause.verify_message})."
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason})."
        if refused := _PROXY_REFUSED.match(str(cause)):
            return f"the proxy refused it ({refused[1]})."
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}."
        if isinstance(cause, http.client.RemoteDisconnected):
            return "it closed the connection."
        if isinstance(cause, http.client.IncompleteRead):
            return "it ended before the length that it had announced."
    return "what it sent is not well-formed HTTP."


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and its causes, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        inner = next((part for part in error.args if isinstance(part, BaseException)), None)
        error = error.__cause__ or inner or error.__context__
    return found


_CHUNK = 65536
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


class HttpResponse:
    """An answer that has begun: status and headers are there, the body is still arriving."""

    def __init__(self, call: UpstreamCall, response: BaseHTTPResponse, first_byte_at: float) -> None:
        self.sent_at = call.sent_at
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.first_byte_at = first_byte_at
        self.whole = False
        self._call = call
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives, decompressed. Raises IncompleteCall if it is cut off."""
        try:
            while chunk := self._response.read1(_CHUNK, decode_content=True):
                self._call.reading(body=True)
                yield chunk
        except TRANSPORT_EXCEPTIONS as error:
            raise self.failed(self._call.fault(error)) from None
        self.whole = True

    @property
    def charset(self) -> str:
        """What its content type claims; empty: nothing."""
        found = _CHARSET.search(self.headers.get("content-type", ""))
        return found[1] if found else ""

    def hurry(self, seconds: float) -> None:
        """Allow at most `seconds` for the rest of the body."""
        self._call.deadline.hurry(seconds)

    def bounded(self, max_bytes: int) -> Iterator[bytes]:
        """As `chunks`. Raises IncompleteCall beyond `max_bytes`."""
        size = 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > max_bytes:
                words = f"The upstream's answer is larger than {max_bytes} bytes."
                raise self.failed(TransportError(TransportErrorKind.TOO_LARGE, words))
            yield chunk

    def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises IncompleteCall beyond `max_bytes`."""
        return b"".join(self.bounded(max_bytes))

    def failed(self, fault: TransportError) -> IncompleteCall:
        """The error of an answer that ended with this fault."""
        return IncompleteCall(
            replace(
                fault,
                status=self.status,
                headers=self.headers,
                first_byte_at=self.first_byte_at,
                sent_at=self.sent_at,
            )
        )


_TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class _Timed(HTTPConnection):
    """urllib3's connection on a socket whose every wait ends at the call's deadline."""

    socks: Proxy | None = None

    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn() if self.socks is None else self._through(self.socks)
        timeout = plain.gettimeout()
        timed = DeadlineSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        timed.settimeout(timeout)
        if timeout is not None:
            timed.deadline = Deadline(timeout)  # covers the proxy's answer, too
        return timed

    def _through(self, socks: Proxy) -> socket.socket:
        try:
            sock = socks.connect(self.host, self.port or self.default_port, timeout=self.timeout)
        except ProxyError as error:
            raise OSError(errno.ECONNREFUSED, f"the proxy refused it ({error})") from error
        sock.settimeout(self.timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


class _TimedTLS(HTTPSConnection, _Timed):
    """The same over TLS; the context wraps the socket in a TimedTLSSocket."""


Pooled = PooledConnection[None, _Timed]


def open_socket_of(pooled: Pooled) -> DeadlineSocket | TimedTLSSocket:
    """The open socket under a connection; that to the proxy where TLS runs in the proxy's TLS."""
    sock = pooled.connection.sock
    return cast("DeadlineSocket | TimedTLSSocket", sock.socket if isinstance(sock, SSLTransport) else sock)


class UpstreamConnections:
    """Where an upstream is, how TLS and its proxy are spoken, and the pool of its connections. Threads share it."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        max_idle: int,
        clock: Clock,
        headers: UpstreamHeaders | None = None,
    ) -> None:
        """Keep up to `max_idle` open between calls. Raises ConfigError when the `ca_file` holds no certificate."""
        address = urlsplit(upstream.base_url)
        self._host = address.hostname or ""
        self._port = address.port
        self._connect_timeout = upstream.connect_timeout
        headers = headers or UpstreamHeaders(upstream.headers)
        way = urlsplit(upstream.proxy) if upstream.proxy else None
        self._socks = _socks(way, headers.proxy_auth) if way and way.scheme in _NAMES_RESOLVED_THERE else None
        self._proxy = way if self._socks is None else None
        self._secure = address.scheme == "https"
        encrypted = self._secure or (self._proxy is not None and self._proxy.scheme == "https")
        self._tls = tls_rules(upstream) if encrypted else None
        if self._tls is not None:
            self._tls.sslsocket_class = TimedTLSSocket
        auth = dict(make_headers(proxy_basic_auth=headers.proxy_auth)) if headers.proxy_auth else {}
        self._tunnel_headers = auth
        forwarded = self._proxy is not None and not self._secure
        # Prefix of the request line, and headers of every request: a proxy that does not tunnel needs both.
        self.base = f"{address.scheme}://{address.netloc}" if forwarded else ""
        self.headers = {
            **{name.lower(): value for name, value in headers.headers.items()},
            **(auth if forwarded else {}),
        }
        self._pool: ConnectionPool[None, _Timed] = ConnectionPool(
            max_idle=max_idle if upstream.max_idle is None else min(max_idle, upstream.max_idle),
            idle_seconds=upstream.max_idle_seconds or upstream.max_age,
            max_age=upstream.max_age,
            monotonic=clock.monotonic,
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
        made = (
            _Timed(host, port, timeout=self._connect_timeout)
            if self._tls is None
            else self._secured(host, port)
        )
        made.socks = self._socks
        return made

    def _secured(self, host: str, port: int | None) -> _Timed:
        own_rules = ProxyConfig(self._tls, False, None, None)  # for the TLS of a proxy
        made = _TimedTLS(
            host, port, timeout=self._connect_timeout, ssl_context=self._tls, proxy_config=own_rules
        )
        if self._proxy is not None and self._secure:
            to = (self._host, self._port or 443)
            made.set_tunnel(*to, headers=self._tunnel_headers, scheme=self._proxy.scheme)
        return made


# Schemes of SOCKS proxies, and whether the proxy resolves the upstream's name.
_NAMES_RESOLVED_THERE = {"socks5": False, "socks5h": True}


def _socks(way: SplitResult, auth: str) -> Proxy:
    user, _, password = auth.partition(":")
    there = _NAMES_RESOLVED_THERE[way.scheme]
    host, port = way.hostname or "", way.port or 0
    return Proxy(ProxyType.SOCKS5, host, port, user if auth else None, password if auth else None, rdns=there)


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
