"""Writes responses to a connection byte by byte, correct or broken.

aiohttp parses requests and keeps the connections; this writes what they are answered with, so that a
body can be cut, reset or lied about at any byte.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
HTML = b"text/html; charset=utf-8"

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
# Discards the kernel's buffer; the peer reads "connection reset".
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_UNSENT_BYTES_ALLOWED = 1024 * 1024


class ClientGoneError(Exception):
    """The connection was closed during the answer."""


class Answered(web.StreamResponse):
    """Signals to aiohttp that the answer is already written and whether to keep the connection."""

    def __init__(self, keep_alive: bool) -> None:
        """Two of these serve all requests."""
        super().__init__()
        self._keeps_alive = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the next request may come on the same connection."""
        return self._keeps_alive

    async def prepare(self, _: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing to send."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to send."""


_SERVE_ON = Answered(keep_alive=True)
_CLOSE = Answered(keep_alive=False)


class Wire:
    """The response side of one request."""

    __slots__ = ("_keep_alive", "_request_id", "_transport", "opened")

    def __init__(self, transport: asyncio.Transport | None, keep_alive: bool, request_id: bytes) -> None:
        """Raises ClientGoneError if the connection is gone."""
        if transport is None:
            raise ClientGoneError
        self._transport = transport
        self._keep_alive = keep_alive
        self._request_id = request_id
        self.opened = False  # a head was sent, the body follows in chunks

    @property
    def answered(self) -> Answered:
        """What the handler returns to aiohttp."""
        return _SERVE_ON if self._keep_alive else _CLOSE

    def whole(self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """A complete answer; after `open` only its body, as the last chunk."""
        if self.opened:
            self.chunk(body)
            self.end()
            return
        length = b"content-length: %d\r\n" % len(body)
        self._write(self._head(status, content_type, length + headers) + body)

    def open(self, content_type: bytes, headers: bytes = b"") -> None:
        """The head of a 200 whose body comes in chunks; nothing if that was sent already."""
        if not self.opened:
            self.opened = True
            self._write(self._head(200, content_type, b"transfer-encoding: chunked\r\n" + headers))

    def chunk(self, data: bytes) -> None:
        """A piece of the body."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """The end of a body in chunks."""
        self._write(b"0\r\n\r\n")

    def promise(self, length: int, content_type: bytes, headers: bytes = b"") -> None:
        """The head of a 200 that announces a body of `length` bytes, to be sent with `raw`."""
        self._write(self._head(200, content_type, b"content-length: %d\r\n" % length + headers))

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._write(data)

    async def drained(self) -> None:
        """Wait until a slow reader has taken nearly all that was written."""
        while self._transport.get_write_buffer_size() > _UNSENT_BYTES_ALLOWED:
            await asyncio.sleep(0.005)
            self._check()

    def close(self) -> None:
        """Close after what was written."""
        self._keep_alive = False

    def reset(self) -> None:
        """Reset the connection: the client reads "connection reset by peer"."""
        self._keep_alive = False
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def _head(self, status: int, content_type: bytes, headers: bytes) -> bytes:
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\nx-request-id: %b\r\n%b%b\r\n" % (
            status,
            _REASONS.get(status, b"Status"),
            content_type,
            self._request_id,
            headers,
            b"" if self._keep_alive else b"connection: close\r\n",
        )

    def _write(self, data: bytes) -> None:
        self._check()
        self._transport.write(data)

    def _check(self) -> None:
        if self._transport.is_closing():
            raise ClientGoneError
