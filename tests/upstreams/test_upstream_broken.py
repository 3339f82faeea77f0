"""Upstream calls over real sockets: broken answers, slow ones, and large ones."""

import gzip
import socket
import time

import orjson
import pytest

from app.settings import UpstreamHeaders
from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from tests.attempts import a_claimed
from tests.upstreams.calls import HEAD, broken_off, call, chunked, faulty, may, upstreams
from tests.upstreams.wire import OK, Peer, WireServer, answer, answering


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    "head", [answer(OK, length=len(OK) + 50), HEAD + chunked(OK[:9]), HEAD + b"ff\r\nab"]
)
def test_a_body_that_ends_early_is_cut(head: bytes, reset: bool) -> None:
    fault = faulty(broken_off(head, reset=reset))
    assert (fault.trouble, fault.status) == (TransportErrorKind.CUT, 200)
    assert fault.first_byte_at is not None


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 20", b"nonsense\r\n\r\n"])
def test_an_answer_that_never_begins_is_broken(head: bytes) -> None:
    fault = faulty(broken_off(head, reset=False))
    assert (fault.trouble, fault.status) == (TransportErrorKind.BROKEN, None)
    assert fault.sent


def test_a_refused_status_survives_its_broken_body() -> None:
    head = answer(b"{", "503 Busy", "retry-after: 4", length=99)
    fault = faulty(broken_off(head, reset=True))
    assert (fault.status, fault.headers["retry-after"]) == (503, "4")


def test_a_closed_port_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    fault = call(upstreams(f"http://127.0.0.1:{port}"))
    assert isinstance(fault, TransportError)
    assert (fault.trouble, fault.sent) == (TransportErrorKind.UNCONNECTED, False)
    assert fault.message == "No connection to the upstream: Connection refused."


def test_a_name_that_does_not_resolve_is_no_connection() -> None:
    fault = call(upstreams("http://nowhere.invalid"))
    assert isinstance(fault, TransportError)
    assert fault.trouble is TransportErrorKind.UNCONNECTED


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
    assert isinstance(fault, TransportError)
    assert (fault.trouble, fault.message) == (
        TransportErrorKind.UNCONNECTED,
        "No connection to the upstream: it took too long.",
    )


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
    assert fault.trouble is TransportErrorKind.TIMED_OUT
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("claimed_length", [None, 5000])
def test_a_body_above_the_limit_is_cut_off(claimed_length: int | None) -> None:
    data = answer(b"x" * 5000) if claimed_length else HEAD + chunked(*[b"x" * 500] * 10, b"")
    fault = faulty(answering(data), max_body=4096)
    assert (fault.trouble, fault.status) == (TransportErrorKind.TOO_LARGE, 200)


def test_a_body_of_33_mib_is_not_read_to_its_end() -> None:
    sent = [0]

    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(33 * 16 + 400):
            peer.send(b"x" * 65536)
            sent[0] += 65536

    assert faulty(serve).trouble is TransportErrorKind.TOO_LARGE
    assert sent[0] < 55 * 1024 * 1024


def test_a_small_body_that_unfolds_beyond_the_limit_is_cut_off() -> None:
    bomb = gzip.compress(b"\n" * 20_000_000)
    fault = faulty(answering(answer(bomb, "200 OK", "content-encoding: gzip")), max_body=100_000)
    assert fault.trouble is TransportErrorKind.TOO_LARGE


def test_a_large_request_may_take_longer_than_connecting() -> None:
    def serve(peer: Peer) -> None:
        peer.stopped.wait(0.4)  # the client's buffers fill up
        peer.read_request()
        peer.send(answer())

    with WireServer(serve) as server:
        made = upstreams(server.url, connect_timeout=0.2)
        back = call(made, request=orjson.dumps({"messages": "x" * 12_000_000}).decode())
    assert isinstance(back, Reply)


STREAM_HEAD = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-type: text/event-stream\r\n\r\n")
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'


@pytest.mark.parametrize(
    ("begun", "streams", "limits", "words"),
    [
        (STREAM_HEAD + chunked(CHUNK), True, {"idle_timeout": 0.2}, "stopped for 0.2 s (idle_timeout)"),
        (STREAM_HEAD, True, {"idle_timeout": 0.2}, "stopped for 0.2 s (idle_timeout)"),
        (HEAD + chunked(b'{"choices":'), False, {"idle_timeout": 0.2}, "stopped for 0.2 s (idle_timeout)"),
        (b"", False, {"first_byte_timeout": 0.2}, "did not begin within 0.2 s (first_byte_timeout)"),
        (HEAD, False, {"first_byte_timeout": 0.2}, "did not begin within 0.2 s (first_byte_timeout)"),
        (
            b"HTTP/1.1 200",
            True,
            {"first_byte_timeout": 0.2},
            "did not begin within 0.2 s (first_byte_timeout)",
        ),
        (HEAD, False, {"idle_timeout": 0.1, "timeout": 0.4}, "no complete answer within 0.4 s"),
        (b"", True, {"idle_timeout": 0.1, "timeout": 0.4}, "no complete answer within 0.4 s"),
    ],
)
def test_an_answer_that_stops_is_not_waited_for_to_the_end_of_the_calls_time(
    begun: bytes, streams: bool, limits: dict[str, float], words: str
) -> None:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(begun)
        peer.stopped.wait(60)

    with WireServer(serve) as server:
        passed_on: list[bytes] = []
        back = upstreams(server.url, **limits).call(a_claimed(stream=streams), may, passed_on.append)
    assert isinstance(back, TransportError)
    assert back.trouble is TransportErrorKind.TIMED_OUT
    assert words in back.message
    assert back.shown == bool(passed_on) == (CHUNK in begun)


def test_heartbeats_keep_an_answer_from_being_idle() -> None:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.drip(b"\n" * 10, 0.1)
        peer.send(OK)
        peer.close()

    with WireServer(serve) as server:
        back = call(upstreams(server.url, idle_timeout=0.6, first_byte_timeout=10))
    assert isinstance(back, Reply)


@pytest.mark.parametrize("streams", [False, True])
def test_answers_are_requested_packed_unless_they_are_streamed(streams: bool) -> None:
    asked: list[str] = []

    def serve(peer: Peer) -> None:
        _, headers, _ = peer.read_request() or ("", {}, b"")
        asked.append(headers["accept-encoding"])
        peer.send(answer(gzip.compress(OK), "200 OK", "content-encoding: gzip"))

    with WireServer(serve) as server:
        for headers in (None, UpstreamHeaders({"Accept-Encoding": "deflate"})):
            back = upstreams(server.url, headers=headers).call(a_claimed(stream=streams), may)
            assert isinstance(back, Reply)
            assert back.body == OK
    assert asked == ["identity" if streams else "gzip", "deflate"]


def test_a_stream_that_unfolds_beyond_the_limit_is_cut_off() -> None:
    bomb = gzip.compress(CHUNK * 500_000)
    head = "content-encoding: gzip", "content-type: text/event-stream"
    with WireServer(answering(answer(bomb, "200 OK", *head))) as server:
        back = upstreams(server.url, max_body=100_000).call(a_claimed(stream=True), may)
    assert isinstance(back, TransportError)
    assert back.trouble is TransportErrorKind.TOO_LARGE


def test_a_call_has_the_total_time_of_its_model_or_policy() -> None:
    def serve(peer: Peer) -> None:
        peer.read_request()
        peer.drip(b" " * 1000, 0.05)

    with WireServer(serve) as server:
        begun = time.monotonic()
        back = call(upstreams(server.url, timeout=20.0), timeout=0.2)
    assert isinstance(back, TransportError)
    assert back.trouble is TransportErrorKind.TIMED_OUT
    assert time.monotonic() - begun < 10.0
