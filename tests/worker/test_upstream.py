"""Upstream calls over real sockets: whole answers, broken ones, slow ones, and who may be called twice."""

import gzip
import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from pydantic import SecretStr

from app.adapters.clock import SystemClock
from app.adapters.upstream import Upstreams, body_of
from app.adapters.upstream_connections import LONGEST_AGE
from app.domain.repair import Repair
from app.domain.reply import Fault, Reply, Trouble
from app.settings import ConfigError, Outfit, Settings, UpstreamSettings
from tests.attempts import a_claimed, a_permit
from tests.worker.wire import OK, Peer, WireServer, answer, answering

SECRET = "sk-0123456789abcdef"


class MovableClock(SystemClock):
    """The real clock, moved ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def upstreams(url: str, clock: Any = None, outfit: Outfit | None = None, **limits: Any) -> Upstreams:
    upstream = UpstreamSettings(name="up", base_url=f"{url}/v1", **limits)
    secrets = {"k1": SecretStr(SECRET)}
    settings = Settings(upstreams=(upstream,))
    outfits = {"up": outfit} if outfit is not None else None
    return Upstreams(settings, secrets, concurrency=8, clock=clock or SystemClock(), outfits=outfits)


def call(made: Upstreams, seconds: float = 2.0, **claimed: Any) -> Reply | Fault:
    return made.call(a_claimed(**claimed), time.monotonic() + seconds)


def faulty(serve: Callable[[Peer], None], **limits: Any) -> Fault:
    """The fault that a call to such a server comes to."""
    with WireServer(serve) as server:
        back = call(upstreams(server.url, **limits))
    assert isinstance(back, Fault), back
    return back


def test_a_call_sends_the_stored_request_with_model_key_and_task_id() -> None:
    seen: list[Any] = []

    def serve(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(answer(OK, "200 OK", "x-request-id: r1"))

    with WireServer(serve) as server:
        back = call(upstreams(server.url))
    line, headers, body = seen[0]
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["x-penstock-task"] == "task_1"
    assert headers["content-type"] == "application/json"
    sent = orjson.loads(body)
    assert sent["model"] == "deepseek-flash"
    assert sent["messages"] == [{"role": "user", "content": "hello"}]
    assert isinstance(back, Reply)
    assert (back.status, back.body, back.headers["x-request-id"]) == (200, OK, "r1")
    assert back.first_byte_at is not None


@pytest.mark.parametrize(
    ("accepts", "letters", "packed"), [(True, 20_000, True), (True, 20, False), (False, 20_000, False)]
)
def test_larger_requests_are_packed_for_upstreams_that_accept_it(
    accepts: bool, letters: int, packed: bool
) -> None:
    seen: list[Any] = []

    def serve(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(answer(OK))

    request = orjson.dumps({"messages": [{"role": "user", "content": "water " * (letters // 6)}]}).decode()
    with WireServer(serve) as server:
        back = call(upstreams(server.url, gzip=accepts), request=request)
    assert isinstance(back, Reply), back
    _, headers, body = seen[0]
    assert (headers.get("content-encoding") == "gzip") is packed
    assert int(headers["content-length"]) == len(body)
    assert (
        orjson.loads(gzip.decompress(body) if packed else body)["messages"]
        == orjson.loads(request)["messages"]
    )
    assert (len(body) < letters / 10) is packed


@pytest.mark.parametrize(
    ("request_text", "sent"),
    [
        ('{"messages":[]}', {"model": "deepseek-flash", "messages": []}),
        ("{}", {"model": "deepseek-flash"}),
        (" { } ", {"model": "deepseek-flash"}),
        (' {"a":"{"}', {"model": "deepseek-flash", "a": "{"}),
    ],
)
def test_the_model_is_put_into_every_shape_of_request(request_text: str, sent: dict[str, Any]) -> None:
    assert orjson.loads(body_of(a_claimed(request=request_text))) == sent


def test_a_remembered_repair_is_applied() -> None:
    claimed = a_claimed(avoid=("k9", str(Repair("clamp", "max_tokens", "8192"))))
    assert orjson.loads(body_of(claimed))["max_tokens"] == 8192


def test_an_upstreams_name_of_a_model_is_escaped() -> None:
    claimed = a_claimed(a_permit(upstream_model='a"b/ü'))
    assert orjson.loads(body_of(claimed))["model"] == 'a"b/ü'


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Oops", "302 Found"])
def test_an_error_answer_is_a_reply_and_no_redirect_is_followed(status: str) -> None:
    with WireServer(answering(answer(b"{}", status, "location: http://127.0.0.1:1/"))) as server:
        back = call(upstreams(server.url))
        assert server.connections == 1
    assert isinstance(back, Reply)
    assert back.status == int(status[:3])


def test_nothing_is_ever_sent_twice_by_itself() -> None:
    requests: list[Any] = []

    def serve(peer: Peer) -> None:
        requests.append(peer.read_request())
        peer.reset()

    assert faulty(serve).trouble is Trouble.BROKEN
    assert len(requests) == 1


def test_blank_lines_before_the_body_are_part_of_a_good_answer() -> None:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer(b"", "200 OK", length=len(OK) + 3))
        peer.drip(b"\n\n\n", 0.02)
        peer.send(OK)

    with WireServer(serve) as server:
        back = call(upstreams(server.url))
    assert isinstance(back, Reply)
    assert back.body.strip() == OK


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_chunked_answer_is_put_together() -> None:
    with WireServer(answering(HEAD + chunked(b"\n", OK[:10], OK[10:], b""))) as server:
        back = call(upstreams(server.url))
    assert isinstance(back, Reply)
    assert back.body == b"\n" + OK


def test_a_compressed_answer_is_undone() -> None:
    with WireServer(answering(answer(gzip.compress(OK), "200 OK", "content-encoding: gzip"))) as server:
        back = call(upstreams(server.url))
    assert isinstance(back, Reply)
    assert back.body == OK


def test_the_chunks_of_an_answer_can_be_passed_on_as_they_come() -> None:
    passed = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunked(b"data: 1\n\n"))
        assert passed.wait(10)
        peer.send(chunked(b"data: 2\n\n", b""))

    with WireServer(serve) as server, upstreams(server.url).open(a_claimed(), time.monotonic() + 2) as begun:
        chunks = begun.chunks()
        assert next(chunks) == b"data: 1\n\n"
        passed.set()
        assert list(chunks) == [b"data: 2\n\n"]


# What breaks


def broken_off(head: bytes, *, reset: bool) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(head)
        if reset:
            peer.reset()

    return serve


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    "head", [answer(OK, length=len(OK) + 50), HEAD + chunked(OK[:9]), HEAD + b"ff\r\nab"]
)
def test_a_body_that_ends_early_is_cut(head: bytes, reset: bool) -> None:
    fault = faulty(broken_off(head, reset=reset))
    assert (fault.trouble, fault.status) == (Trouble.CUT, 200)
    assert fault.first_byte_at is not None


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 20", b"nonsense\r\n\r\n"])
def test_an_answer_that_never_begins_is_broken(head: bytes) -> None:
    fault = faulty(broken_off(head, reset=False))
    assert (fault.trouble, fault.status) == (Trouble.BROKEN, None)
    assert fault.sent


def test_a_refused_status_survives_its_broken_body() -> None:
    head = answer(b"{", "503 Busy", "retry-after: 4", length=99)
    fault = faulty(broken_off(head, reset=True))
    assert (fault.status, fault.headers["retry-after"]) == (503, "4")


def test_a_closed_port_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    fault = call(upstreams(f"http://127.0.0.1:{port}"))
    assert isinstance(fault, Fault)
    assert (fault.trouble, fault.sent) == (Trouble.UNCONNECTED, False)
    assert fault.message == "No connection to the upstream: Connection refused."


def test_a_name_that_does_not_resolve_is_no_connection() -> None:
    fault = call(upstreams("http://nowhere.invalid"))
    assert isinstance(fault, Fault)
    assert fault.trouble is Trouble.UNCONNECTED


def test_a_connection_that_is_not_accepted_in_time_is_no_connection() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = []
        for _ in range(8):  # more than the queue of connections holds
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        fault = call(upstreams(f"http://127.0.0.1:{port}", connect_timeout=0.2))
        for sock in waiting:
            sock.close()
    assert isinstance(fault, Fault)
    assert (fault.trouble, fault.message) == (
        Trouble.UNCONNECTED,
        "No connection to the upstream: it took too long.",
    )


# What is slow, or large


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="silence"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500, id="a dripping head"),
        pytest.param(answer(b"\n" * 500, length=9999), id="dripping blank lines"),
        pytest.param(HEAD + b"1\r\n\n\r\n" * 200, id="dripping chunks"),
    ],
)
def test_a_byte_now_and_then_does_not_stretch_a_calls_time(head: bytes) -> None:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(head[:100])
        peer.drip(head[100:] or b" ", 0.05 if head else 30)

    begun = time.monotonic()
    fault = faulty(serve, timeout=0.5)
    assert fault.trouble is Trouble.TIMED_OUT
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("claimed_length", [None, 5000])
def test_a_body_above_the_limit_is_cut_off(claimed_length: int | None) -> None:
    data = answer(b"x" * 5000) if claimed_length else HEAD + chunked(*[b"x" * 500] * 10, b"")
    fault = faulty(answering(data), max_body=4096)
    assert (fault.trouble, fault.status) == (Trouble.TOO_LARGE, 200)


def test_a_body_of_33_mib_is_not_read_to_its_end() -> None:
    sent = [0]

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(33 * 16 + 400):
            peer.send(b"x" * 65536)
            sent[0] += 65536

    assert faulty(serve).trouble is Trouble.TOO_LARGE
    assert sent[0] < 55 * 1024 * 1024


def test_a_small_body_that_unfolds_beyond_the_limit_is_cut_off() -> None:
    bomb = gzip.compress(b"\n" * 20_000_000)
    fault = faulty(answering(answer(bomb, "200 OK", "content-encoding: gzip")), max_body=100_000)
    assert fault.trouble is Trouble.TOO_LARGE


def test_a_large_request_may_take_longer_than_connecting() -> None:
    def serve(peer: Peer) -> None:
        peer.stopped.wait(0.4)  # the client's buffers fill up
        peer.read_request()
        peer.send(answer())

    with WireServer(serve) as server:
        made = upstreams(server.url, connect_timeout=0.2)
        back = call(made, request=orjson.dumps({"messages": "x" * 12_000_000}).decode())
    assert isinstance(back, Reply)


# Connections


def test_a_connection_is_used_again() -> None:
    with WireServer(answering(answer())) as server:
        made = upstreams(server.url)
        for _ in range(5):
            assert isinstance(call(made), Reply)
        assert server.connections == 1
        made.close()


def test_error_answers_and_blank_ones_leave_the_connection_usable() -> None:
    for data in (answer(b"{}", "429 No"), answer(b""), HEAD + chunked(b"")):
        with WireServer(answering(data)) as server:
            made = upstreams(server.url)
            assert isinstance(call(made), Reply)
            assert isinstance(call(made), Reply)
            assert server.connections == 1
            made.close()


def test_a_connection_of_ten_minutes_is_not_used_again() -> None:
    clock = MovableClock()
    with WireServer(answering(answer())) as server:
        made = upstreams(server.url, clock)
        made.call(a_claimed(), clock.monotonic() + 2)
        clock.ahead = LONGEST_AGE - 1
        made.call(a_claimed(), clock.monotonic() + 2)
        assert server.connections == 1
        clock.ahead = LONGEST_AGE + 1
        made.call(a_claimed(), clock.monotonic() + 2)
        assert server.connections == 2
        made.close()


def test_a_connection_that_the_upstream_closed_meanwhile_is_replaced() -> None:
    closed = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer())
        peer.sock.shutdown(socket.SHUT_RDWR)
        closed.set()

    with WireServer(serve) as server:
        made = upstreams(server.url)
        for _ in range(3):
            closed.clear()
            assert isinstance(call(made), Reply)
            assert closed.wait(10)
        assert server.connections == 3


def test_an_answer_that_asks_to_close_is_obeyed() -> None:
    with WireServer(answering(answer(OK, "200 OK", "connection: close"))) as server:
        made = upstreams(server.url)
        assert isinstance(call(made), Reply)
        assert isinstance(call(made), Reply)
        assert server.connections == 2


def test_a_broken_call_leaves_nothing_for_the_next_one() -> None:
    def serve(peer: Peer) -> None:
        peer.read_request()
        if peer.number == 1:
            peer.send(HEAD + chunked(OK) + b"zz\r\n")
        else:
            peer.send(answer(b'{"second":1}'))

    with WireServer(serve) as server:
        made = upstreams(server.url)
        assert isinstance(call(made), Fault)
        back = call(made)
    assert isinstance(back, Reply)
    assert back.body == b'{"second":1}'


# Not sent, aborted


def test_nothing_is_sent_once_the_permit_is_old_and_the_connection_is_kept() -> None:
    seen: list[Any] = []

    def serve(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            seen.append(request)
            peer.send(answer())

    with WireServer(serve) as server:
        made = upstreams(server.url)
        fault = call(made, seconds=-0.001)
        assert isinstance(fault, Fault)
        assert fault.trouble is Trouble.NOT_SENT
        assert seen == []
        assert isinstance(call(made), Reply)
        assert server.connections == 1
        made.close()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"])
def test_abort_ends_calls_in_flight_and_later_ones_are_not_sent(begun: bytes) -> None:
    waiting = threading.Event()

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(begun)
        waiting.set()
        peer.stopped.wait(30)

    backs: list[Reply | Fault] = []
    with WireServer(serve) as server:
        made = upstreams(server.url)
        thread = threading.Thread(target=lambda: backs.append(call(made)))
        thread.start()
        assert waiting.wait(10)
        made.abort()
        thread.join(10)
        backs.append(call(made))
    first, second = backs
    assert isinstance(first, Fault)
    assert isinstance(second, Fault)
    assert (first.trouble, first.sent) == (Trouble.ABORTED, True)
    assert (second.trouble, second.sent) == (Trouble.NOT_SENT, False)


# Secrets


def test_no_repr_and_no_fault_holds_the_secret() -> None:
    with WireServer(broken_off(b"", reset=True)) as server:
        made = upstreams(server.url)
        back = call(made)
        assert SECRET not in repr((made, vars(made), back))


def test_a_secret_that_the_upstream_repeats_is_struck_out() -> None:
    with WireServer(answering(answer(f'{{"error":"bad key {SECRET}"}}'.encode(), "401 No"))) as server:
        back = call(upstreams(server.url))
    assert isinstance(back, Reply)
    assert back.body == b'{"error":"bad key [key]"}'


# TLS


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

    def __init__(self, certificate: Path, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.maximum_version = most
        super().__init__(answering(answer()))

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
    assert isinstance(fault, Fault)
    assert fault.trouble is Trouble.UNCONNECTED
    assert "certificate not valid" in fault.message


def test_an_older_tls_than_asked_for_is_refused(certificate: Path) -> None:
    with TlsServer(certificate, most=ssl.TLSVersion.TLSv1_2) as server:
        assert isinstance(call(upstreams(server.url, ca_file=str(certificate), min_tls="1.2")), Reply)
        fault = call(upstreams(server.url, ca_file=str(certificate), min_tls="1.3"))
    assert isinstance(fault, Fault)
    assert fault.trouble is Trouble.UNCONNECTED


def test_authorities_that_cannot_be_read_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing of the kind")
    for file in ("none.pem", "missing.pem"):
        with pytest.raises(ConfigError, match='ca_file of upstream "up"'):
            upstreams("https://127.0.0.1:1", ca_file=str(tmp_path / file))


# Proxies and headers


class Proxy(WireServer):
    """A real proxy: CONNECT, and absolute addresses."""

    def __init__(self, refusing: str = "") -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self._refusing = refusing
        super().__init__(self._pass)

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
            back.join(10)

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


def echoing(peer: Peer) -> None:
    """Serve: what was asked for, and by which headers."""
    while (request := peer.read_request()) is not None:
        peer.send(answer(orjson.dumps([request[0], request[1]])))


def test_https_passes_through_a_proxy_as_a_tunnel_and_its_connection_is_used_again(certificate: Path) -> None:
    with TlsServer(certificate) as server, Proxy() as proxy:
        outfit = Outfit(proxy_auth="ann:secret-word")
        made = upstreams(server.url, outfit=outfit, proxy=proxy.url, ca_file=str(certificate), min_tls="1.3")
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
    assert isinstance(fault, Fault)
    assert "certificate not valid" in fault.message


def test_plain_http_is_forwarded_by_a_proxy() -> None:
    with WireServer(echoing) as server, Proxy() as proxy:
        made = upstreams(server.url, outfit=Outfit(proxy_auth="ann:word"), proxy=proxy.url)
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
    assert isinstance(fault, Fault)
    assert fault.trouble is Trouble.UNCONNECTED
    assert fault.message == "No connection to the upstream: the proxy refused it (407)."


def test_without_a_proxy_of_its_own_the_environments_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with WireServer(echoing) as server:
        assert isinstance(call(upstreams(server.url)), Reply)


def test_an_upstreams_headers_go_with_every_call_and_secret_ones_never_come_back() -> None:
    outfit = Outfit(
        {"X-Title": "ours", "X-Gate": "gate-secret-1", "User-Agent": "theirs"}, ("gate-secret-1",)
    )
    with WireServer(echoing) as server:
        back = call(upstreams(server.url, outfit=outfit))
    assert isinstance(back, Reply)
    headers = orjson.loads(back.body)[1]
    assert (headers["x-title"], headers["user-agent"], headers["x-gate"]) == ("ours", "theirs", "[key]")
    assert headers["authorization"] == "Bearer [key]"
