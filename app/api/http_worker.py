"""gunicorn's threaded worker, with our error envelope for malformed HTTP, no thread for slow clients, and a shutdown
that does not wait for long polls.
"""

from __future__ import annotations

import errno
import re
import selectors
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

from gunicorn import http, util
from gunicorn.http import errors
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from app.api.responses import envelope
from app.tasks.domain.task import new_id

LEAST_PACE = 1024  # bytes per second required once `patience` is used up


class SlowClient(ParseException):  # type: ignore[misc]
    """A request arrived too slowly."""


class SlowClientGuard(SocketUnreader):  # type: ignore[misc]
    """Reads a socket with a time limit: `patience` seconds of waiting per request, plus one for each KiB received.

    Only waiting for the client counts, not the time the application takes between two reads.
    """

    def __init__(self, sock: socket.socket, patience: float) -> None:
        super().__init__(sock)
        self.begin(patience)

    def begin(self, patience: float) -> None:
        """Start a request, with `patience` seconds for its headers."""
        self._patience = patience
        self._read = 0
        self._waited = 0.0

    def allow(self, patience: float) -> None:
        """Allow `patience` seconds of waiting for the rest of the request."""
        self._patience = patience

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes. Raises SlowClient."""
        left = self._patience + self._read / LEAST_PACE - self._waited
        if left <= 0:
            raise SlowClient
        data = self._wait(left, size_hint)
        self._read += len(data)
        return data

    def _wait(self, left: float, size_hint: int | None) -> bytes:
        began, before = time.monotonic(), self.sock.gettimeout()
        self.sock.settimeout(left if before is None else min(left, before))
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError:
            raise SlowClient from None
        finally:
            self.sock.settimeout(before)
            self._waited += time.monotonic() - began
        return data


def paced_parser(cfg: Any, conn: Any, patience: float) -> Any:
    """gunicorn's parser for a new connection, with read and write timeouts."""
    # The kernel enforces the write timeout, so that sending remains one blocking call.
    limit = struct.pack("ll", max(1, int(patience)), 0)
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    parser = http.get_parser(cfg, conn.sock, conn.client)
    parser.unreader = SlowClientGuard(conn.sock, patience)
    return parser


_STATUSES = (
    (SlowClient, 408, "Request Timeout"),
    (errors.LimitRequestLine, 414, "URI Too Long"),
    (errors.LimitRequestHeaders, 431, "Request Header Fields Too Large"),
    (errors.ExpectationFailed, 417, "Expectation Failed"),
    (errors.UnsupportedTransferCoding, 501, "Not Implemented"),
    (errors.ParseException, 400, "Bad Request"),
)
_REASONS = {status: reason for _, status, reason in _STATUSES}
_HEAD_SECONDS = 8.0  # from the start of a connection or request to the end of its headers
_LONGEST_HEAD = 64 * 1024  # bytes
_READ = 16 * 1024  # bytes
_BLANK_LINE = re.compile(rb"\n\r?\n")
_NOBODY = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED})
_READ_OUT_PATIENCE = 10
_MOST_READ_OUT = 1024**3  # bytes of a body that nobody needs any more
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})


@dataclass(slots=True)
class _Head:
    """The part of a request's headers that has arrived, and the deadline for the rest."""

    received: bytearray
    deadline: float

    @property
    def whole(self) -> bool:
        return _BLANK_LINE.search(self.received) is not None


class GunicornThreadWorker(ThreadWorker):  # type: ignore[misc]
    """Uses a thread per request in progress, and none for connections that are idle or have sent incomplete headers.

    gunicorn's own worker gives a new connection a thread for 5 s, and incomplete headers one without a time limit.
    """

    patience = 30.0  # seconds, see SlowClientGuard

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._heads: dict[Any, _Head] = {}  # by connection, earliest deadline first

    @property
    def _head_seconds(self) -> float:
        return min(_HEAD_SECONDS, self.patience)

    def accept(self, listener: Any) -> None:
        """Accept a connection. At the limit, close the one that has kept us waiting longest."""
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_FILES and self._close_oldest():
                return
            if error.errno not in _NOBODY:
                raise
            return
        self.nr_conns += 1
        self._await_head(TConn(self.cfg, sock, address, listener.getsockname()), b"")
        if self.nr_conns >= self.worker_connections:
            self._close_oldest()

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """A kept-alive connection starts another request."""
        if conn in self.keepalived_conns:  # else it was closed a moment ago
            self.poller.unregister(client)
            self.keepalived_conns.remove(conn)
            self._await_head(conn, b"")

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A request was served. Bytes the client has sent after it begin the next one."""
        if fs.exception() is None and fs.result() and (ahead := conn.parser.unreader.take_buffered()):
            self._await_head(conn, ahead)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Close connections whose headers are late."""
        now = time.monotonic()
        while self._heads:
            conn, head = next(iter(self._heads.items()))
            if head.deadline > now:
                return
            self._forget(conn)
            self._refuse(conn, head, 408)

    def _cap_keepalive(self, deadline: float) -> None:
        """The process is shutting down: wait for no client beyond `deadline`."""
        super()._cap_keepalive(deadline)
        for head in self._heads.values():
            head.deadline = min(head.deadline, deadline)

    def _close_oldest(self) -> bool:
        """Close the connection that has sent incomplete headers longest, else the one idle longest."""
        if self._heads:
            conn = next(iter(self._heads))
            self._forget(conn)
        elif self.keepalived_conns:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
        else:
            return False
        self._close(conn)
        return True

    def _await_head(self, conn: Any, begun: bytes) -> None:
        conn.sock.setblocking(False)
        head = _Head(bytearray(begun), time.monotonic() + self._head_seconds)
        if not self._go_on(conn, head):
            self._heads[conn] = head
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_more, conn))

    def _on_more(self, conn: Any, sock: Any) -> None:  # noqa: ARG002
        if (head := self._heads.get(conn)) is not None:  # else it was closed a moment ago
            self._go_on(conn, head)

    def _go_on(self, conn: Any, head: _Head) -> bool:
        """Read more; serve complete headers, close ended connections. Returns whether waiting is over."""
        waiting = not head.whole and self._read(conn, head)
        if waiting and not head.whole and len(head.received) <= _LONGEST_HEAD:
            return False
        self._forget(conn)
        if head.whole:
            conn.head, conn.data_ready = bytes(head.received), True
            self.enqueue_req(conn)
        elif waiting:
            self._refuse(conn, head, 431)
        else:
            self._close(conn)
        return True

    @staticmethod
    def _read(conn: Any, head: _Head) -> bool:
        """Read what has arrived. Returns whether more may follow."""
        try:
            data = conn.sock.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        head.received += data
        return bool(data)

    def _forget(self, conn: Any) -> None:
        if self._heads.pop(conn, None) is not None:
            self.poller.unregister(conn.sock)

    def _refuse(self, conn: Any, head: _Head, status: int) -> None:
        """Close the connection, with an error response if the client had sent anything."""
        if head.received:
            write_error(conn.sock, status, _REASONS[status])
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM, have the application answer its long polls; then stop as gunicorn does."""
        drain = getattr(self.wsgi, "drain", None)
        if self.alive and drain is not None:
            self.method_queue.defer(drain)  # runs in the main loop: a signal handler must take no lock
        super().handle_exit(sig, frame)

    def handle(self, conn: Any) -> Any:
        """Serve a connection's next request, and close the connection here if it was the last.

        gunicorn closes it in its main loop, which a client that does not hang up would block for two seconds.
        """
        if conn.parser is None:
            conn.parser = paced_parser(self.cfg, conn, self.patience)
        conn.parser.unreader.begin(self._head_seconds)
        conn.parser.unreader.unread(conn.head)
        kept = super().handle(conn)
        if kept is False:
            with suppress(OSError):  # it is closed already
                conn.sock.setblocking(True)
                util.close_graceful(conn.sock)
            conn.close = _closed_already
        return kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Call the application; its reads of the body have `patience`."""
        conn.parser.unreader.allow(self.patience)
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can serve another request; not if the rest of this one does not arrive.

        A body that was read completely has no rest. What is left of one that was refused early is read all the same,
        for up to ten times `patience` seconds: many clients send all of it before they read the response, and would
        otherwise find a closed connection.
        """
        if getattr(conn.parser.mesg.body.reader, "length", None) == 0:
            return keepalive
        try:
            until = time.monotonic() + _READ_OUT_PATIENCE * self.patience
            return bool(conn.parser.finish_body(until, _MOST_READ_OUT)) and keepalive
        except (SlowClient, OSError):
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Answer malformed HTTP with the error envelope."""
        status, reason = next((known[1:] for known in _STATUSES if isinstance(exc, known[0])), (500, ""))
        if status == 500:
            self.log.error("a request failed outside the application: %s", type(exc).__name__)
        write_error(client, status, reason or "Internal Server Error")


def worker_with(patience: float) -> type[GunicornThreadWorker]:
    """Return a worker class with this patience: gunicorn instantiates workers itself."""
    return type("PatientWorker", (GunicornThreadWorker,), {"patience": patience})


def _closed_already(graceful: bool = False) -> None:
    """Replaces `close` of a closed connection."""


def write_error(client: Any, status: int, reason: str) -> None:
    """Write a complete error response to a socket, if the client is still there."""
    message = (
        "internal error; the x-request-id identifies it"
        if status == 500
        else f"not a well-formed request: {reason}"
    )
    type_ = "server_error" if status == 500 else "invalid_request_error"
    body = envelope(message, type_=type_, code="malformed_request" if status < 500 else "internal")
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"x-request-id: {new_id('req', time.time())}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        util.write_nonblock(client, head.encode("latin-1") + body)
    except Exception:  # noqa: BLE001 - the client is gone
        return
