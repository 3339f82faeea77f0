"""One call in flight: its deadline, how far it has come, and the means to cut it off from another thread."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading

from urllib3.exceptions import HTTPError, NameResolutionError

from app.platform.ssrf_safe_socket import Deadline, DeadlineSocket, TimedTLSSocket
from app.upstreams.domain.reply import TransportError, TransportErrorKind

# Whatever can go wrong between us and an upstream.
TROUBLES = (OSError, http.client.HTTPException, HTTPError, ValueError)


class IncompleteCall(Exception):  # not an error of ours: the fault says what happened
    """A call came to no whole answer."""

    def __init__(self, fault: TransportError) -> None:
        super().__init__(fault.message)
        self.fault = fault


def not_sent(why: str) -> IncompleteCall:
    """The call has ended before anything was sent."""
    return IncompleteCall(TransportError(TransportErrorKind.NOT_SENT, f"Nothing was sent: {why}."))


class UpstreamCall:
    """Made before the connection is there; `sending` and `reading` say how far it has come."""

    def __init__(self, seconds: float) -> None:
        """The call ends after `seconds`, all in all."""
        self.deadline = Deadline(seconds)
        self._seconds = seconds
        self._stage = TransportErrorKind.UNCONNECTED
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False
        self.sent_at: float | None = None  # Unix seconds

    def sending(self, sock: DeadlineSocket | TimedTLSSocket, at: float | None = None) -> None:
        """From here on bytes may reach the upstream, `at` by the clock. Raises IncompleteCall when aborted before."""
        with self._lock:
            if self._aborted:
                raise not_sent("the worker is stopping")
            self._socket = sock
            self._stage = TransportErrorKind.BROKEN
            self.sent_at = at
        sock.deadline = self.deadline

    def reading(self) -> None:
        """The answer has begun."""
        self._stage = TransportErrorKind.CUT

    def abort(self) -> None:
        """End the call now; its thread sees the connection end. May be called at any time, by any thread."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                _shut(self._socket)

    def done(self) -> None:
        """Let go of the socket: it may serve another call from now on."""
        with self._lock:
            self._socket = None

    def fault(self, error: Exception, status: int | None = None) -> TransportError:
        """What an error means at this stage, in words that hold nothing of what was sent or received."""
        if self._aborted and self._stage is not TransportErrorKind.UNCONNECTED:
            said = "The worker stopped before the answer was complete."
            return TransportError(TransportErrorKind.ABORTED, said, status, sent_at=self.sent_at)
        if self._stage is not TransportErrorKind.UNCONNECTED and _is_timeout(error):
            said = f"The upstream gave no whole answer within {self._seconds:g} s."
            return TransportError(TransportErrorKind.TIMED_OUT, said, status, sent_at=self.sent_at)
        said = _WORDS[self._stage] + _detail(error)
        return TransportError(self._stage, said, status, sent_at=self.sent_at)


_PROXY_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")  # http.client's words
_WORDS = {
    TransportErrorKind.UNCONNECTED: "No connection to the upstream: ",
    TransportErrorKind.BROKEN: "The connection to the upstream ended without an answer: ",
    TransportErrorKind.CUT: "The upstream's answer was cut off: ",
}


def _shut(sock: socket.socket) -> None:
    """Wake whoever reads; not by SSLSocket's own shutdown, which takes TLS away under the reading thread."""
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
    return f"{type(causes[-1]).__name__}."


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what led to it, the outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        inner = next((part for part in error.args if isinstance(part, BaseException)), None)
        error = error.__cause__ or inner or error.__context__
    return found
