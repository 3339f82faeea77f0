"""Upstream calls over real sockets: what is sent, and whole answers; secrets."""

import gzip
import threading
from typing import Any

import orjson
import pytest

from app.upstreams.call_upstream import body_of
from app.upstreams.domain.reply import Reply, TransportErrorKind
from app.upstreams.domain.request_parameters import ParameterFix
from tests.attempts import a_claimed, a_permit
from tests.upstreams.calls import HEAD, SECRET, broken_off, call, chunked, faulty, may, upstreams
from tests.upstreams.wire import OK, Peer, WireServer, answer, answering


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
    claimed = a_claimed(avoid=("k9", str(ParameterFix("clamp", "max_tokens", "8192"))))
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

    assert faulty(serve).trouble is TransportErrorKind.BROKEN
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


def test_a_chunked_answer_is_put_together() -> None:
    with WireServer(answering(HEAD + chunked(b"\n", OK[:10], OK[10:], b""))) as server:
        back = call(upstreams(server.url))
    assert isinstance(back, Reply)
    assert back.body == OK


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
        assert passed.wait(60)
        peer.send(chunked(b"data: 2\n\n", b""))

    with WireServer(serve) as server, upstreams(server.url).open(a_claimed(), may) as begun:
        chunks = begun.chunks()
        assert next(chunks) == b"data: 1\n\n"
        passed.set()
        assert list(chunks) == [b"data: 2\n\n"]


def test_a_streamed_answer_is_whole_whatever_parsers_are_strict_about() -> None:
    pieces = [
        b'data: {"choices": [{"index": 0, "delta": {"content": "half \\ud83d"},\n',
        b'data: "logprobs": {"content": [{"logprob": -Infinity}]}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "."}, "finish_reason": "stop"}]}\n\n',
        b"data: [DONE]\n\n",
        b"",
    ]
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-type: text/event-stream\r\n\r\n")
    passed_on: list[bytes] = []
    with WireServer(answering(head + chunked(*pieces))) as server:
        claimed = a_claimed(stream=True)
        back = upstreams(server.url).call(claimed, may, passed_on.append)
    assert isinstance(back, Reply)
    (choice,) = orjson.loads(back.body)["choices"]
    assert choice["message"]["content"] == "half \ufffd."
    assert choice["logprobs"] == {"content": [{"logprob": None}]}
    assert [b"\n" in chunk for chunk in passed_on] == [False, False]
    assert all(map(orjson.loads, passed_on))


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
