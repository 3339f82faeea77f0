"""Requests must keep coming: who sends a byte now and then would hold a thread for ever.

Only waiting for the sender counts, not what the application does between two reads.
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
from gunicorn.http import errors, wsgi
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import Response
from gunicorn.workers.gthread import TConn, ThreadWorker

from app.api.responses import envelope
from app.tasks.domain.task import new_id

LEAST_PACE = 1024  # bytes per second, beyond the patience


class SlowClient(ParseException):  # type: ignore[misc]
    """A request came slower than is waited for."""


class SlowClientGuard(SocketUnreader):  # type: ignore[misc]
    """Reads a socket; each request may keep it waiting `patience` seconds, and one more for each KiB it has sent."""

    def __init__(self, sock: socket.socket, patience: float) -> None:
        super().__init__(sock)
        self.begin(patience)

    def begin(self, patience: float) -> None:
        """Another request begins, with so many seconds for its head."""
        self._patience = patience
        self._read = 0
        self._waited = 0.0

    def allow(self, patience: float) -> None:
        """The rest of the request may keep us waiting for so many seconds."""
        self._patience = patience

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes. Raises SlowClient."""
        left = self._patience + self._read / LEAST_PACE - self._waited
        if left <= 0:
            raise SlowClient
        data = self._at_hand(size_hint)
        if data is None:
            data = self._wait(left, size_hint)
        self._read += len(data)
        return data

    def _at_hand(self, size_hint: int | None) -> bytes | None:
        """What has come already, as most requests have when they are first looked at; None: it must be waited for.

        Setting a timeout and taking it away are two system calls, and the interpreter is let go of in each.
        """
        if self.sock.gettimeout() is not None:
            return None
        size = max(self.mxchunk, min(size_hint or 0, self.max_body_chunk))
        try:
            data: bytes = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
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
    """gunicorn's parser for a new connection, which is not read from, nor written to, for longer than is meet."""
    # Who does not take his answer is given up too, by the kernel: sending stays one blocking call.
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
_NOTIFY_EVERY = 1.0  # seconds
_HEAD_SECONDS = (
    8.0  # from the opening of a connection, or the first byte of a further request, to the head's end
)
_LONGEST_HEAD = 64 * 1024  # bytes
_READ = 16 * 1024  # bytes
_BLANK_LINE = re.compile(rb"\n\r?\n")
_NOBODY = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED})
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})


@dataclass(slots=True)
class _Head:
    """What has come of a request's head, and until when the rest is waited for."""

    received: bytearray
    deadline: float

    @property
    def whole(self) -> bool:
        return _BLANK_LINE.search(self.received) is not None


class GunicornThreadWorker(ThreadWorker):  # type: ignore[misc]
    """One thread for each request that is being served; none for who is silent, or has not sent a whole head.

    gunicorn gives a new connection a thread for 5 s, and a head one for as long as it takes.
    """

    patience = 30.0  # seconds, see paced_reading.py
    _notified_at = -1e9

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._heads: dict[Any, _Head] = {}  # by connection, the one that ends first at the beginning

    @property
    def _head_seconds(self) -> float:
        return min(_HEAD_SECONDS, self.patience)

    def accept(self, listener: Any) -> None:
        """Take a new connection; when there are as many as may be, the one that has kept us waiting longest goes."""
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_FILES and self._let_longest_go():
                return
            if error.errno not in _NOBODY:
                raise
            return
        self.nr_conns += 1
        self._await_head(TConn(self.cfg, sock, address, listener.getsockname()), b"")
        if self.nr_conns >= self.worker_connections:
            self._let_longest_go()

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """A kept-alive connection begins another request."""
        if conn in self.keepalived_conns:  # else it was let go a moment ago
            self.poller.unregister(client)
            self.keepalived_conns.remove(conn)
            self._await_head(conn, b"")

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A request was served. What the client has sent behind it is the beginning of the next."""
        if fs.exception() is None and fs.result() and (ahead := conn.parser.unreader.take_buffered()):
            self._await_head(conn, ahead)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Let those go whose head is late."""
        now = time.monotonic()
        while self._heads:
            conn, head = next(iter(self._heads.items()))
            if head.deadline > now:
                return
            self._forget(conn)
            self._refuse(conn, head, 408)

    def _cap_keepalive(self, deadline: float) -> None:
        """This process is to end: nobody is waited for beyond `deadline`."""
        super()._cap_keepalive(deadline)
        for head in self._heads.values():
            head.deadline = min(head.deadline, deadline)

    def _let_longest_go(self) -> bool:
        """Close the connection whose head is waited for longest, else the kept-alive one that is idle longest."""
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
        if (head := self._heads.get(conn)) is not None:  # else it was let go a moment ago
            self._go_on(conn, head)

    def _go_on(self, conn: Any, head: _Head) -> bool:
        """Read on; serve what is whole, close what has ended. Returns whether there is nothing more to wait for."""
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
        """Take what is at hand. Returns whether more may come."""
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
        """Who has said nothing is told nothing."""
        if head.received:
            write_error(conn.sock, status, _REASONS[status])
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def notify(self) -> None:
        """Tell gunicorn's master that this process lives, once a second: gunicorn would after each event."""
        now = time.monotonic()
        if now - self._notified_at >= _NOTIFY_EVERY:
            self._notified_at = now
            super().notify()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM, ask the application to send its long polls home; then end as gunicorn does."""
        drain = getattr(self.wsgi, "drain", None)
        if self.alive and drain is not None:
            self.method_queue.defer(drain)  # runs in the main loop: a signal handler must take no lock
        super().handle_exit(sig, frame)

    def handle(self, conn: Any) -> Any:
        """Serve a connection's next request, and end the connection here if it was the last.

        gunicorn ends it in its main loop, which a client that does not hang up would hold for two seconds.
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

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Let the application answer; gives back whether the connection may be kept.

        gunicorn's own, without hooks and an access log, which nobody has set here.
        """
        conn.parser.unreader.allow(self.patience)
        response = None
        try:
            response, environ = wsgi.create(
                req, conn.sock, conn.client, conn.server, self.cfg, response_class=_SingleWriteResponse
            )
            environ["wsgi.multithread"] = True
            if not self.alive or len(self.keepalived_conns) >= self.max_keepalived:
                response.force_close()
            self._answer(environ, response)
        except OSError:
            raise
        except (Exception, SystemExit):
            if response is None or not response.headers_sent:
                raise
            # An answer has begun: another behind it would be taken for a part of it.
            self.log.exception("a request failed while it was answered")
            util.close_graceful(conn.sock)
            raise StopIteration from None
        return not response.should_close()

    def _answer(self, environ: dict[str, Any], response: Any) -> None:
        pieces = self.wsgi(environ, response.start_response)
        try:
            if isinstance(pieces, environ["wsgi.file_wrapper"]):
                response.write_file(pieces)
            else:
                for piece in pieces:
                    response.write(piece)
            response.close()
        finally:
            if close := getattr(pieces, "close", None):
                close()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can serve another request; not when the rest of this one does not come.

        Of a body that was read to its end there is no rest: gunicorn would set a timeout first, and take it away.
        """
        if keepalive and getattr(conn.parser.mesg.body.reader, "length", None) == 0:
            return True
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except SlowClient:
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Answer what is not HTTP in the envelope that everything else has."""
        status, reason = next((known[1:] for known in _STATUSES if isinstance(exc, known[0])), (500, ""))
        if status == 500:
            self.log.error("a request failed outside the application: %s", type(exc).__name__)
        write_error(client, status, reason or "Internal Server Error")


class _SingleWriteResponse(Response):  # type: ignore[misc]
    """Sends a body that is at hand as a whole together with its head: gunicorn would wake the client twice."""

    headers_sent: bool

    def write(self, arg: bytes) -> None:
        """The next piece of the body."""
        if self.headers_sent or self._omits_body or self.response_length != len(arg):
            super().write(arg)
            return
        told = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        head = f"{''.join(self.default_headers())}{told}\r\n"
        self.headers_sent = True
        self.sent = len(arg)
        self.sock.sendall(head.encode("latin-1") + arg)


def worker_with(patience: float) -> type[GunicornThreadWorker]:
    """gunicorn makes its workers itself, from a class."""
    return type("PatientWorker", (GunicornThreadWorker,), {"patience": patience})


def _closed_already(graceful: bool = False) -> None:
    """In place of a connection's `close`, once it is closed."""


def write_error(client: Any, status: int, reason: str) -> None:
    """Write a whole response to a socket; a client that is gone misses nothing."""
    message = "something went wrong here" if status == 500 else f"not a well-formed request: {reason}"
    type_ = "server_error" if status == 500 else "invalid_request_error"
    body = envelope(message, type_=type_, code="malformed_request" if status < 500 else "internal")
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"x-request-id: {new_id('req', time.time())}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        util.write_nonblock(client, head.encode("latin-1") + body)
    except Exception:  # noqa: BLE001 - there is nobody left to tell
        return
