"""Upstream calls over real sockets: connections used again, calls not sent, and aborted ones."""

import socket
import threading
from typing import Any

import pytest

from app.upstreams.domain.reply import Reply, TransportError, TransportErrorKind
from tests.attempts import a_claimed
from tests.upstreams.calls import HEAD, MovableClock, call, chunked, may, upstreams
from tests.upstreams.wire import OK, Peer, WireServer, answer, answering


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
        made.call(a_claimed(), may)
        clock.ahead = 599
        made.call(a_claimed(), may)
        assert server.connections == 1
        clock.ahead = 601
        made.call(a_claimed(), may)
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
            assert closed.wait(60)
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
        assert isinstance(call(made), TransportError)
        back = call(made)
    assert isinstance(back, Reply)
    assert back.body == b'{"second":1}'


def test_nothing_is_sent_once_the_permit_is_old_and_the_connection_is_kept() -> None:
    seen: list[Any] = []

    def serve(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            seen.append(request)
            peer.send(answer())

    with WireServer(serve) as server:
        made = upstreams(server.url)
        fault = call(made, lambda: False)
        assert isinstance(fault, TransportError)
        assert fault.trouble is TransportErrorKind.NOT_SENT
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

    backs: list[Reply | TransportError] = []
    with WireServer(serve) as server:
        made = upstreams(server.url)
        thread = threading.Thread(target=lambda: backs.append(call(made)))
        thread.start()
        assert waiting.wait(60)
        made.abort()
        thread.join(60)
        backs.append(call(made))
    first, second = backs
    assert isinstance(first, TransportError)
    assert isinstance(second, TransportError)
    assert (first.trouble, first.sent) == (TransportErrorKind.ABORTED, True)
    assert (second.trouble, second.sent) == (TransportErrorKind.NOT_SENT, False)


def test_how_many_connections_are_kept_and_for_how_long_can_be_set() -> None:
    clock = MovableClock()

    def opened(ahead: float, **limits: float) -> int:
        with WireServer(answering(answer())) as server:
            made = upstreams(server.url, clock, **limits)
            call(made)
            clock.ahead += ahead
            call(made)
            made.close()
            return server.connections

    assert opened(0) == opened(599) == 1
    assert opened(0, max_idle=0) == 2
    assert opened(9, max_idle_seconds=10) == 1
    assert opened(11, max_idle_seconds=10) == 2
    assert opened(11, max_age=10) == 2
