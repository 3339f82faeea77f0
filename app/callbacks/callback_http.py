"""Sends callbacks: one POST each, only to permitted addresses, within a total time, without following redirects.

How many go to one host at once is limited here too.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import structlog
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import create_urllib3_context

from app.callbacks.domain.callback import DeliveryReply, HostHealth, SignedCallback
from app.platform.domain.url_rules import (
    NETWORKS_SETTING,
    PORTS_SETTING,
    BadTarget,
    TargetRules,
    UrlTarget,
    parse_target,
)
from app.platform.outgoing_connections import (
    AddressRefused,
    ConnectionPool,
    Deadline,
    DeadlineSocket,
    PooledConnection,
    Resolver,
    TimedTLSSocket,
    open_socket,
    system_resolver,
)
from app.platform.ports import Clock

MAX_RESPONSE_BYTES = 64 * 1024
BODY_SECONDS = 2.0  # for the body, which is read only so that the connection can be reused
USER_AGENT = "Penstock/1 (+callbacks; standard-webhooks)"
IDLE_SECONDS, MAX_IDLE = 15.0, 256  # connections that are kept for further callbacks
_KEPT_HEADERS = ("retry-after", "date")
_STALE = (
    ConnectionError,
    http.client.RemoteDisconnected,
)  # errors of a connection that the receiver closed while idle

Opener = Callable[[str, int], DeadlineSocket]
log = structlog.get_logger(__name__)


# One wording for both: whoever submits callbacks is not to learn which names our resolver knows. The log says which.
UNUSABLE = (
    "the host name does not lead to an address that callbacks may use; for a receiver on an internal network, an"
    f" administrator lists the network under {NETWORKS_SETTING} and the port under {PORTS_SETTING}"
)


class _Plain(HTTPConnection):
    """urllib3's connection over our own socket; Host remains the name."""

    opener: Opener

    def _new_conn(self) -> socket.socket:
        return self.opener(self._dns_host, self.port)


class _Secure(HTTPSConnection):
    """The same over TLS: the certificate is verified against the name, whatever its address."""

    opener: Opener

    def _new_conn(self) -> socket.socket:
        return self.opener(self._dns_host, self.port)


_Pool = ConnectionPool[UrlTarget, HTTPConnection]
_Pooled = PooledConnection[UrlTarget, HTTPConnection]


class CallbackHttp:
    """Sends callbacks. Used by all threads of a worker; a connection belongs to one of them at a time."""

    def __init__(
        self,
        rules: TargetRules,
        *,
        timeout_seconds: float = 15.0,
        ca_file: str | None = None,
        resolver: Resolver = system_resolver,
    ) -> None:
        """`ca_file` is a PEM file of authorities to trust in addition to the machine's own."""
        self._rules = rules
        self._timeout_seconds = timeout_seconds
        self._resolver = resolver
        self._tls = _tls_context(ca_file)
        self._pool: _Pool = ConnectionPool(max_idle=MAX_IDLE, idle_seconds=IDLE_SECONDS)

    def send(self, callback: SignedCallback) -> DeliveryReply:
        """Send a callback and return the status, or why there is none. Never raises for what a receiver does."""
        try:
            target = parse_target(callback.url, self._rules)
        except BadTarget as error:
            return DeliveryReply(error=str(error), hopeless=True, sent=False)
        deadline = Deadline(self._timeout_seconds)
        try:
            return self._exchange(target, callback, deadline)
        except AddressRefused as error:
            log.warning("callback address refused", host=target.host, addresses=error.addresses)
            return DeliveryReply(error=UNUSABLE, sent=False)
        except (OSError, http.client.HTTPException, HTTPError, ValueError) as error:
            return DeliveryReply(error=self._explain(error))

    def close(self) -> None:
        """Close what is kept open between callbacks."""
        self._pool.close()

    def _exchange(self, target: UrlTarget, callback: SignedCallback, deadline: Deadline) -> DeliveryReply:
        """Send over an idle connection if one is open; over a new one if there is none or it proves dead."""
        kept = self._pool.reuse(_origin(target))
        if kept is not None:
            try:
                return self._post(kept, target, callback, deadline)
            except _STALE:
                pass
        opened = self._pool.open(_origin(target), lambda: self._connect(target, deadline))
        return self._post(opened, target, callback, deadline)

    def _post(
        self, pooled: _Pooled, target: UrlTarget, callback: SignedCallback, deadline: Deadline
    ) -> DeliveryReply:
        connection = pooled.connection
        try:
            sock = cast("DeadlineSocket", connection.sock)
            sock.deadline = deadline
            headers = {"Host": target.authority, **_agent(callback), **callback.headers}
            connection.request(
                "POST", target.path, body=callback.body, headers=headers, preload_content=False
            )
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        sock.deadline = Deadline(BODY_SECONDS)
        self._finish(pooled, response)
        kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        return DeliveryReply(status_code=response.status, headers=kept)

    def _finish(self, pooled: _Pooled, response: BaseHTTPResponse) -> None:
        """Read the body and keep the connection. Failures here do not matter: the status is known."""
        pooled.reusable = _read_to_its_end(response)
        if not pooled.reusable:
            response.close()
        self._pool.release(pooled)

    def _connect(self, target: UrlTarget, deadline: Deadline) -> HTTPConnection:
        def opener(host: str, port: int) -> DeadlineSocket:
            return open_socket(host, port, self._rules, deadline, self._resolver)

        connection: _Plain | _Secure
        if target.scheme == "https":
            connection = _Secure(target.host, target.port, ssl_context=self._tls)
        else:
            connection = _Plain(target.host, target.port)
        connection.opener = opener
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _explain(self, error: Exception) -> str:
        """What went wrong, fit for the client to see: no address, nothing that was received."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS: the certificate is not valid: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or 'the handshake failed'}"
        if isinstance(error, socket.gaierror):
            return UNUSABLE
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_seconds:g} s"
        if isinstance(error, ConnectionRefusedError):
            return "connection refused"
        if isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
            return "the connection was closed without an answer"
        if isinstance(error, OSError):
            return f"connection failed: {error.strerror or 'unreachable'}"
        return "the answer was not proper HTTP"


def _agent(callback: SignedCallback) -> dict[str, str]:
    """Our User-Agent, unless the client has set its own."""
    named = any(name.lower() == "user-agent" for name in callback.headers)
    return {} if named else {"User-Agent": USER_AGENT}


def _origin(target: UrlTarget) -> UrlTarget:
    return UrlTarget(target.scheme, target.host, target.port, "/")


def _read_to_its_end(response: BaseHTTPResponse) -> bool:
    """Whether the body ended within MAX_RESPONSE_BYTES, in time and without an error."""
    left = MAX_RESPONSE_BYTES
    try:
        while left > 0:
            chunk = response.read(min(left, 16384), decode_content=False)
            if not chunk:
                return True
            left -= len(chunk)
    except (OSError, http.client.HTTPException, HTTPError, ValueError):
        return False
    return False


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    context = create_urllib3_context(ssl_minimum_version=ssl.TLSVersion.TLSv1_2)
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.sslsocket_class = TimedTLSSocket
    return context


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Limits of one host in one process."""

    at_once: int = 10
    failures: int = 5  # in a row, before it is paused
    pause_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Host:
    """The state of a host: deliveries in flight, failures in a row, and the end of its pause."""

    in_flight: int = 0
    failures: int = 0
    paused_until: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it may be forgotten once its pause is over."""
        return self.in_flight == 0 and self.failures == 0


@dataclass(frozen=True, slots=True)
class Go:
    """Send now; the host counts one more in flight."""

    host: Host


@dataclass(frozen=True, slots=True)
class AtCapacity:
    """The host's limit is in flight; whichever ends next continues with the queue."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The host is paused for this long."""

    seconds: float


def admit(host: Host, limits: HostLimits, now: float) -> Go | AtCapacity | Paused:
    """Decide whether one more delivery may start."""
    if now < host.paused_until:
        return Paused(host.paused_until - now)
    if host.in_flight >= room(host, limits):
        return AtCapacity()
    return Go(replace(host, in_flight=host.in_flight + 1))


def room(host: Host, limits: HostLimits) -> int:
    """How many may be in flight at once: one until a failing host has answered again."""
    return 1 if host.failures >= limits.failures else limits.at_once


def arrive(
    host: Host, limits: HostLimits, health: HostHealth, now: float, pause_seconds: float = 0.0
) -> Host:
    """End one delivery; `pause_seconds` is what its reply asked for."""
    failures = host.failures
    if health is HostHealth.GOOD:
        failures = 0
    elif health is HostHealth.BAD:
        failures += 1
    if failures >= limits.failures and health is HostHealth.BAD:
        pause_seconds = max(pause_seconds, limits.pause_seconds)
    until = max(host.paused_until, now + pause_seconds) if pause_seconds > 0 else host.paused_until
    return Host(host.in_flight - 1, failures, until)


MAX_QUEUED = 20_000  # callbacks of all hosts together, an id each
OVERFLOW_SECONDS = 5.0  # by which callbacks beyond that are postponed
FORGET_ABOVE = 10_000  # hosts


@dataclass(slots=True)
class _HostSlot:
    host: Host = field(default_factory=Host)
    queue: OrderedDict[str, None] = field(default_factory=OrderedDict)  # ids of callbacks not claimed yet


class HostConcurrencyLimiter:
    """Limits what is in flight to each host, queues the rest, and pauses failing hosts. In memory, one for a process.

    Used by all threads; one lock guards every field. A host has a queue only while something is in flight to it, so
    some thread will always continue with it.
    """

    def __init__(self, clock: Clock, limits: HostLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or HostLimits()
        self._lock = threading.Lock()
        self._slots: dict[str, _HostSlot] = {}
        self._queued = 0
        self._closed = False

    def enter(self, name: str, callback_id: str) -> Go | AtCapacity | Paused:
        """Ask to send. Go: in flight until `leave`. AtCapacity: queued for `take_next`. Paused: postpone it."""
        with self._lock:
            slot = self._slot(name)
            decision = admit(slot.host, self._limits, self._clock.monotonic())
            if isinstance(decision, Go):
                slot.host = decision.host
            elif isinstance(decision, AtCapacity) and not self._enqueue(slot, callback_id):
                return Paused(OVERFLOW_SECONDS)
            return decision

    def leave(self, name: str, health: HostHealth, pause_seconds: float = 0.0) -> None:
        """End what `enter` allowed."""
        with self._lock:
            slot = self._slot(name)
            slot.host = arrive(slot.host, self._limits, health, self._clock.monotonic(), pause_seconds)

    def take_next(self, name: str) -> str | None:
        """The next in a host's queue, if it may go now or must be postponed; None: stop."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None or not slot.queue:
                return None
            if isinstance(admit(slot.host, self._limits, self._clock.monotonic()), AtCapacity):
                return None
            first, _ = slot.queue.popitem(last=False)
            self._queued -= 1
            return first

    def abandon(self, name: str) -> None:
        """Drop a host's queue, unless something in flight will continue with it: its rows are published again."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is not None and slot.host.in_flight == 0:
                self._queued -= len(slot.queue)
                slot.queue.clear()

    def close(self) -> None:
        """Drop all queues and accept none: this process is ending, other processes deliver the rest."""
        with self._lock:
            self._closed = True
            self._queued = 0
            for slot in self._slots.values():
                slot.queue.clear()

    def _enqueue(self, slot: _HostSlot, callback_id: str) -> bool:
        if callback_id in slot.queue:  # published twice
            return True
        if self._closed or self._queued >= MAX_QUEUED:
            return False
        slot.queue[callback_id] = None
        self._queued += 1
        return True

    def _slot(self, name: str) -> _HostSlot:
        if name not in self._slots and len(self._slots) >= FORGET_ABOVE:
            self._forget()
        return self._slots.setdefault(name, _HostSlot())

    def _forget(self) -> None:
        """Forget idle hosts that are not paused."""
        now = self._clock.monotonic()
        kept = (
            item for item in self._slots.items() if not item[1].host.idle or item[1].host.paused_until > now
        )
        self._slots = dict(kept)
