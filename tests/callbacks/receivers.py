"""Receivers on ports of their own that misbehave in one way each, and certificates for them."""

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Behaviour = Callable[[socket.socket, threading.Event], None]


class RawReceiver:
    """Accepts connections, reads a request and does what it was made for. `requests` is what it read."""

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviour = behaviour
        self._tls = tls
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads: list[threading.Thread] = []
        self.port = self._listening.getsockname()[1]
        self.connections = 0
        self.requests: list[bytes] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def url(self, host: str = "127.0.0.1", path: str = "/hook") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._spawn(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(sock, server_side=True) if self._tls else sock as stream:
                stream.settimeout(60)
                self.requests.append(read_request(stream))
                self._behaviour(stream, self._stop)
        except (OSError, EOFError):
            sock.close()


def read_request(sock: socket.socket) -> bytes:
    """One request, whole."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(sock)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += _more(sock)
    return head + b"\r\n\r\n" + body


def _more(sock: socket.socket) -> bytes:
    received = sock.recv(65536)
    if not received:
        raise EOFError
    return received


def answering(*answers: bytes) -> Behaviour:
    """Answer one request after the other with these bytes, then close."""

    def behave(sock: socket.socket, stop: threading.Event) -> None:
        for number, answer in enumerate(answers):
            if number:
                read_request(sock)
            sock.sendall(answer)

    return behave


def silent(sock: socket.socket, stop: threading.Event) -> None:
    """Never answer."""
    stop.wait(120)


def dripping_headers(sock: socket.socket, stop: threading.Event) -> None:
    """A byte of a header now and then, without an end."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not stop.wait(0.05):
        sock.sendall(b"x")


def dripping_body(sock: socket.socket, stop: threading.Event) -> None:
    """A proper head, then a byte of body now and then, without an end."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not stop.wait(0.05):
        sock.sendall(b"x")


def huge_body(sent: list[int]) -> Behaviour:
    """A proper head, then bytes as fast as they are taken; `sent` gets how many went out."""

    def behave(sock: socket.socket, stop: threading.Event) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        total = 0
        try:
            while not stop.is_set() and total < 1_000_000_000:
                total += sock.send(b"x" * 65536)
        except OSError:
            pass
        finally:
            sent.append(total)

    return behave


def make_certificate(folder: Path, *names: str, days: int = 1) -> tuple[Path, Path]:
    """A self-signed certificate for names and addresses; gives back (certificate, key) files in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=2))
        .not_valid_after(today + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{names[0]}.pem", folder / f"{names[0]}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A TLS server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
