"""A hand-made server: what it says on the wire, and when, is up to a function of the test."""

import socket
import threading
from collections.abc import Callable
from typing import Self

PATIENCE = 60.0  # seconds: how slow a machine may be
OK = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'


def answer(body: bytes = OK, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A whole HTTP answer. `length`: what it claims to be long, when that is not the truth."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, number: int, stopped: threading.Event) -> None:
        self.sock = sock
        self.number = number  # which connection of the server, from 1
        self.stopped = stopped
        self._file = sock.makefile("rb")

    def read_request(self) -> tuple[str, dict[str, str], bytes] | None:
        """(request line, headers in lower case, body); None when the client has gone."""
        line = self._file.readline()
        if not line:
            return None
        headers: dict[str, str] = {}
        while (text := self._file.readline().strip()) != b"":
            name, _, value = text.decode().partition(":")
            headers[name.lower()] = value.strip()
        return line.decode().strip(), headers, self._file.read(int(headers.get("content-length", 0)))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, seconds: float) -> None:
        """One byte every `seconds`, until the client has had enough."""
        for at in range(len(data)):
            if self.stopped.wait(seconds):
                return
            self.send(data[at : at + 1])

    def reset(self) -> None:
        """Close so that the client sees a reset, not an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close()

    def close(self) -> None:
        self._file.close()  # it holds the socket open
        self.sock.close()


class WireServer:
    """Listens on a free port and gives each connection to `serve` in a thread of its own."""

    def __init__(self, serve: Callable[[Peer], None]) -> None:
        self._serve = serve
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._peers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE)  # from here on nobody else is accepted
        for sock in self._peers:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._peers.append(sock)
            peer = Peer(sock, self.connections, self._stopped)
            thread = threading.Thread(target=self._run, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _run(self, peer: Peer) -> None:
        try:
            self._serve(peer)
        except OSError:
            pass
        finally:
            peer.close()


def answering(data: bytes) -> Callable[[Peer], None]:
    """Serve: the same answer to every request, on connections that stay open."""

    def serve(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(data)

    return serve
