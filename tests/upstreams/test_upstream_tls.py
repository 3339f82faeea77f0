"""Upstream calls over TLS, through proxies, and with headers of their own."""

import http.client
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from app.settings import ConfigError, UpstreamHeaders
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from tests.upstreams.calls import call, upstreams
from tests.upstreams.wire import Peer, WireServer, answer, answering


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", str(file) + ".crt"]
    subprocess.run([*command, *names], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(str(file) + ".crt").read_bytes())
    return file


class TlsServer(WireServer):
    """The same over TLS."""

    def __init__(
        self,
        certificate: Path,
        most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        serve: Callable[[Peer], None] | None = None,
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.maximum_version = most
        super().__init__(serve or answering(answer()))

    def _run(self, peer: Peer) -> None:
        try:
            with self._context.wrap_socket(peer.sock, server_side=True) as sock:
                super()._run(Peer(sock, peer.number, peer.stopped))
        except (OSError, ValueError):
            pass

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")


def test_a_verified_certificate_is_accepted_and_its_connection_used_again(certificate: Path) -> None:
    with TlsServer(certificate) as server:
        made = upstreams(server.url, ca_file=str(certificate), min_tls="1.3")
        for _ in range(2):
            assert isinstance(call(made), Reply)
        assert server.connections == 1
        made.close()


def test_an_unknown_certificate_is_refused(certificate: Path) -> None:
    with TlsServer(certificate) as server:
        fault = call(upstreams(server.url))
    assert isinstance(fault, TransportError)
    assert fault.trouble is TransportErrorKind.UNCONNECTED
    assert "certificate not valid" in fault.message


def test_an_older_tls_than_asked_for_is_refused(certificate: Path) -> None:
    with TlsServer(certificate, most=ssl.TLSVersion.TLSv1_2) as server:
        assert isinstance(call(upstreams(server.url, ca_file=str(certificate), min_tls="1.2")), Reply)
        fault = call(upstreams(server.url, ca_file=str(certificate), min_tls="1.3"))
    assert isinstance(fault, TransportError)
    assert fault.trouble is TransportErrorKind.UNCONNECTED


def test_authorities_that_cannot_be_read_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing of the kind")
    for file in ("none.pem", "missing.pem"):
        with pytest.raises(ConfigError, match='ca_file of upstream "up"'):
            upstreams("https://127.0.0.1:1", ca_file=str(tmp_path / file))


class Proxy(WireServer):
    """A real proxy: CONNECT, and absolute addresses."""

    def __init__(self, refusing: str = "", certificate: Path | None = None) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self._refusing = refusing
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._context is not None and certificate is not None:
            self._context.load_cert_chain(certificate)
        super().__init__(self._pass)

    def _run(self, peer: Peer) -> None:
        if self._context is None:
            super()._run(peer)
            return
        try:
            with self._context.wrap_socket(peer.sock, server_side=True) as sock:
                super()._run(Peer(sock, peer.number, peer.stopped))
        except (OSError, ValueError):
            pass

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:") if self._context else super().url

    def _pass(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            line, headers, body = request
            self.seen.append((line, headers))
            method, target, _ = line.split()
            if self._refusing:
                peer.send(answer(b"our words", self._refusing))
            elif method == "CONNECT":
                self._tunnel(peer, target)
                return
            else:
                self._forward(peer, target, headers, body)

    def _tunnel(self, peer: Peer, target: str) -> None:
        host, _, port = target.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._copy, args=(upstream, peer.sock))
            back.start()
            self._copy(peer.sock, upstream)
            back.join(60)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    @staticmethod
    def _forward(peer: Peer, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        connection = http.client.HTTPConnection(parts.netloc)
        connection.request("POST", parts.path, body, {n: v for n, v in headers.items() if n != "host"})
        back = connection.getresponse()
        peer.send(answer(back.read(), f"{back.status} OK"))
        connection.close()


def silent(peer: Peer) -> None:
    """Serve: nothing, ever."""
    while peer.read_request() is not None:
        pass


def echoing(peer: Peer) -> None:
    """Serve: what was asked for, and by which headers."""
    while (request := peer.read_request()) is not None:
        peer.send(answer(orjson.dumps([request[0], request[1]])))


def test_https_passes_through_a_proxy_as_a_tunnel_and_its_connection_is_used_again(certificate: Path) -> None:
    with TlsServer(certificate) as server, Proxy() as proxy:
        headers = UpstreamHeaders(proxy_auth="ann:secret-word")
        made = upstreams(
            server.url,
            headers=headers,
            proxy=proxy.url,
            ca_file=str(certificate),
            min_tls="1.3",
        )
        assert [isinstance(call(made), Reply) for _ in range(2)] == [True, True]
        made.close()
    (line, headers), *more = proxy.seen
    assert line.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.")
    assert headers["proxy-authorization"] == "Basic YW5uOnNlY3JldC13b3Jk"
    assert "authorization" not in headers
    assert more == []


def test_a_certificate_is_checked_through_a_proxy_too(certificate: Path) -> None:
    with TlsServer(certificate) as server, Proxy() as proxy:
        fault = call(upstreams(server.url, proxy=proxy.url))
    assert isinstance(fault, TransportError)
    assert "certificate not valid" in fault.message


def test_plain_http_is_forwarded_by_a_proxy() -> None:
    with WireServer(echoing) as server, Proxy() as proxy:
        made = upstreams(server.url, headers=UpstreamHeaders(proxy_auth="ann:word"), proxy=proxy.url)
        back = call(made)
        made.close()
    assert isinstance(back, Reply)
    assert orjson.loads(back.body)[0] == "POST /v1/chat/completions HTTP/1.1"
    line, headers = proxy.seen[0]
    assert line == f"POST {server.url}/v1/chat/completions HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["proxy-authorization"] == "Basic YW5uOndvcmQ="


def test_a_proxy_that_refuses_is_no_connection_and_is_not_quoted(certificate: Path) -> None:
    with TlsServer(certificate) as server, Proxy("407 Proxy Authentication Required") as proxy:
        fault = call(upstreams(server.url, proxy=proxy.url, ca_file=str(certificate)))
    assert isinstance(fault, TransportError)
    assert fault.trouble is TransportErrorKind.UNCONNECTED
    assert fault.message == "No connection to the upstream: the proxy refused it (407)."


def test_the_connection_to_a_proxy_may_use_tls_and_the_upstreams_runs_within_it(certificate: Path) -> None:
    with TlsServer(certificate) as server, Proxy(certificate=certificate) as proxy:
        made = upstreams(
            server.url,
            headers=UpstreamHeaders(proxy_auth="ann:word"),
            proxy=proxy.url,
            ca_file=str(certificate),
        )
        assert [isinstance(call(made), Reply) for _ in range(2)] == [True, True]
        made.close()
        assert server.connections == 1
    (line, headers), *more = proxy.seen
    assert line.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.")
    assert headers["proxy-authorization"] == "Basic YW5uOndvcmQ="
    assert more == []


def test_plain_http_is_forwarded_over_tls_to_the_proxy(certificate: Path) -> None:
    with WireServer(echoing) as server, Proxy(certificate=certificate) as proxy:
        made = upstreams(server.url, proxy=proxy.url, ca_file=str(certificate))
        assert isinstance(call(made), Reply)
        made.close()
    assert proxy.seen[0][0] == f"POST {server.url}/v1/chat/completions HTTP/1.1"


def test_the_certificate_of_a_proxy_is_checked(certificate: Path) -> None:
    with WireServer(echoing) as server, Proxy(certificate=certificate) as proxy:
        fault = call(upstreams(server.url, proxy=proxy.url))
    assert isinstance(fault, TransportError)
    assert "certificate not valid" in fault.message
    assert proxy.seen == []


def test_a_call_within_the_proxys_tls_ends_at_its_deadline(certificate: Path) -> None:
    with TlsServer(certificate, serve=silent) as server, Proxy(certificate=certificate) as proxy:
        made = upstreams(server.url, proxy=proxy.url, ca_file=str(certificate), timeout=0.3)
        fault = call(made)
        made.close()
    assert isinstance(fault, TransportError)
    assert fault.trouble is TransportErrorKind.TIMED_OUT


class Socks(Proxy):
    """A real SOCKS5 proxy; `login`: the user and password that it asks for."""

    def __init__(self, login: tuple[str, str] | None = None) -> None:
        self.targets: list[tuple[int, str]] = []  # kind of address, address
        self._login = login
        super().__init__()

    @property
    def url(self) -> str:
        return super().url.replace("http:", "socks5h:")

    def _pass(self, peer: Peer) -> None:
        read = peer.sock.makefile("rb").read
        _, methods = read(2)
        read(methods)
        peer.send(b"\x05\x02" if self._login else b"\x05\x00")
        if self._login is not None and not self._admits(read, peer):
            return
        kind = read(4)[3]
        host = read(read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(read(4))
        port = int.from_bytes(read(2), "big")
        self.targets.append((kind, host))
        with socket.create_connection((host, port)) as upstream:
            peer.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            back = threading.Thread(target=self._copy, args=(upstream, peer.sock))
            back.start()
            self._copy(peer.sock, upstream)
            back.join(60)

    def _admits(self, read: Callable[[int], bytes], peer: Peer) -> bool:
        read(1)
        given = (read(read(1)[0]).decode(), read(read(1)[0]).decode())
        peer.send(b"\x01\x00" if given == self._login else b"\x01\x01")
        return given == self._login


@pytest.mark.parametrize(
    ("scheme", "kind", "name"), [("socks5h", 3, "localhost"), ("socks5", 1, "127.0.0.1")]
)
def test_a_socks_proxy_resolves_the_name_only_where_it_is_to(scheme: str, kind: int, name: str) -> None:
    with WireServer(echoing) as server, Socks() as proxy:
        to = server.url.replace("127.0.0.1", "localhost")
        made = upstreams(to, proxy=proxy.url.replace("socks5h", scheme))
        back = call(made)
        made.close()
    assert isinstance(back, Reply)
    assert orjson.loads(back.body)[0] == "POST /v1/chat/completions HTTP/1.1"
    assert proxy.targets == [(kind, name)]


def test_https_passes_through_a_socks_proxy_with_its_login(certificate: Path) -> None:
    with TlsServer(certificate) as server, Socks(("ann", "word")) as proxy:
        headers = UpstreamHeaders(proxy_auth="ann:word")
        made = upstreams(server.url, headers=headers, proxy=proxy.url, ca_file=str(certificate))
        assert [isinstance(call(made), Reply) for _ in range(2)] == [True, True]
        made.close()
    assert len(proxy.targets) == 1


def test_a_socks_proxy_that_refuses_is_no_connection() -> None:
    with WireServer(echoing) as server, Socks(("ann", "word")) as proxy:
        fault = call(upstreams(server.url, headers=UpstreamHeaders(proxy_auth="ann:no"), proxy=proxy.url))
    assert isinstance(fault, TransportError)
    assert fault.trouble is TransportErrorKind.UNCONNECTED
    assert fault.message.startswith("No connection to the upstream: the proxy refused it (")
    assert "ann" not in fault.message


def test_without_a_proxy_of_its_own_the_environments_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with WireServer(echoing) as server:
        assert isinstance(call(upstreams(server.url)), Reply)


def test_an_upstreams_headers_go_with_every_call_and_secret_ones_never_come_back() -> None:
    headers = UpstreamHeaders(
        {"X-Title": "ours", "X-Gate": "gate-secret-1", "User-Agent": "theirs"}, ("gate-secret-1",)
    )
    with WireServer(echoing) as server:
        back = call(upstreams(server.url, headers=headers))
    assert isinstance(back, Reply)
    headers = orjson.loads(back.body)[1]
    assert (headers["x-title"], headers["user-agent"], headers["x-gate"]) == ("ours", "theirs", "[key]")
    assert headers["authorization"] == "Bearer [key]"
