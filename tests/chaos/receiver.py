"""The receiver of callbacks, with moods: well, slow, down, an error status, or a certificate that nobody trusts."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
from standardwebhooks.webhooks import Webhook

from tests.callbacks.receivers import make_certificate, server_context

SLOW_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the receiver shows: one that callback workers trust, and one that nobody does."""

    trusted_file: Path
    good: ssl.SSLContext
    bad: ssl.SSLContext

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Two self-signed ones for loopback."""
        pairs = []
        for name in ("good", "bad"):
            (folder / name).mkdir(parents=True)
            pairs.append(make_certificate(folder / name, "127.0.0.1"))
        return cls(pairs[0][0], server_context(*pairs[0]), server_context(*pairs[1]))


class Receiver:
    """Remembers which `webhook-id` came for which task. What it refused is not remembered."""

    def __init__(self, secret: str, certificates: Certificates | None = None) -> None:
        self._webhook = Webhook(secret)
        self._certificates = certificates
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.status = 200
        self.seconds = 0.0  # before each answer
        self.trusted = True
        self.told: dict[str, set[str]] = defaultdict(set)
        self.requests = 0
        self.unverified: list[str] = []  # what came with a wrong signature
        self._server: _Server | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"{'https' if self._certificates else 'http'}://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.receiver = self
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Listen no more; nothing stays open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.hang_up()

    def hang_up(self) -> None:
        """Close what is kept open, so that the next callback has to connect."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def opened(self, connection: socket.socket) -> socket.socket:
        """A connection has come; with certificates TLS begins."""
        if self._certificates is not None:
            context = self._certificates.good if self.trusted else self._certificates.bad
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(connection)
        return connection

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """Take one in; gives back the status to answer."""
        status = self.status
        if self.seconds:
            time.sleep(self.seconds)
        with self._lock:
            self.requests += 1
            if not self._signed(headers, body):
                self.unverified.append(f"{headers} {body[:200]!r}")
                return 401
            if status == 200:
                self.told[orjson.loads(body)["data"]["id"]].add(headers["webhook-id"])
        return status

    def _signed(self, headers: dict[str, str], body: bytes) -> bool:
        """As Standard Webhooks says, but for the age: clocks are stepped here."""
        at = datetime.fromtimestamp(int(headers.get("webhook-timestamp", "0")), tz=UTC)
        right = self._webhook.sign(headers.get("webhook-id", ""), at, body.decode())
        return right in headers.get("webhook-signature", "").split(" ")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    receiver: Receiver

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        return self.receiver.opened(connection), address

    def shutdown_request(self, request: Any) -> None:
        self.receiver.closed(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: a caller who does not trust us hangs up in the handshake."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if (
            len(body) < length
        ):  # its sender was killed, or we hung up, between head and body: nothing was delivered
            self.close_connection = True
            return
        status = self.server.receiver.receive({k.lower(): v for k, v in self.headers.items()}, body)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Silent."""
