"""Requests must keep coming: who sends a byte now and then would hold a thread for ever.

Only waiting for the sender counts, not what the application does between two reads.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from gunicorn import http
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import SocketUnreader

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
