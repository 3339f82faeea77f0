"""Callbacks over real sockets: what is reached, what is refused, and that nothing takes longer than it may."""

import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.callbacks.callback_http import MAX_RESPONSE_BYTES, UNUSABLE, CallbackHttp
from app.callbacks.domain.callback import DeliveryReply, SignedCallback
from app.platform.domain.url_rules import TargetRules, parse_networks
from tests.callbacks.receivers import (
    RawReceiver,
    answering,
    dripping_body,
    dripping_headers,
    huge_body,
    make_certificate,
    read_request,
    server_context,
    silent,
)

LOCAL = TargetRules(ports=((1, 65535),), networks=parse_networks(["127.0.0.1"]))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Names:
    """A resolver of our own: each look-up of a name takes its next answer, the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def send(url: str, http: CallbackHttp | None = None, body: bytes = b"{}") -> DeliveryReply:
    courier = http or CallbackHttp(LOCAL, timeout_seconds=60)
    try:
        return courier.send(SignedCallback(url, {"Content-Type": "application/json", "X-Own": "1"}, body))
    finally:
        if http is None:
            courier.close()


def test_a_callback_is_one_post_with_its_headers_and_body() -> None:
    with RawReceiver(answering(OK)) as receiver:
        assert send(receiver.url(path="/hook?a=1"), body=b'{"a":1}').status_code == 200
        head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /hook?a=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{receiver.port}" in lines
    assert {"X-Own: 1", "Content-Type: application/json", "Content-Length: 7"} <= set(lines)
    assert body == b'{"a":1}'


@pytest.mark.parametrize("code", [201, 204, 301, 307, 404, 410, 429, 500, 503])
def test_the_status_is_given_back_as_it_came(code: int) -> None:
    answer = f"HTTP/1.1 {code} X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".encode()
    with RawReceiver(answering(answer)) as receiver:
        given = send(receiver.url())
    assert (given.status_code, given.headers["retry-after"], given.error) == (code, "7", None)


def test_a_redirect_is_not_followed() -> None:
    with RawReceiver(answering(OK)) as elsewhere:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url()}\r\nContent-Length: 0\r\n\r\n".encode()
        with RawReceiver(answering(moved)) as receiver:
            assert send(receiver.url()).status_code == 302
        assert elsewhere.connections == 0


@pytest.mark.parametrize("behaviour", [silent, dripping_headers])
def test_the_total_time_holds_whatever_the_receiver_does(behaviour: object) -> None:
    courier = CallbackHttp(LOCAL, timeout_seconds=0.5)
    with RawReceiver(behaviour) as receiver:  # type: ignore[arg-type]
        began = time.monotonic()
        answer = send(receiver.url(), courier)
        assert time.monotonic() - began < 20  # the receiver would go on for longer
    assert answer.status_code is None
    assert answer.error == "no answer within 0.5 s"


def test_a_body_without_an_end_does_not_take_back_its_status() -> None:
    with RawReceiver(dripping_body) as receiver:
        assert send(receiver.url()).status_code == 200


def test_no_more_than_64_kib_of_a_huge_body_is_read() -> None:
    sent: list[int] = []
    with RawReceiver(huge_body(sent)) as receiver:
        assert send(receiver.url()).status_code == 200
    # What the sockets' buffers took besides is not ours to bound.
    assert sent[0] < MAX_RESPONSE_BYTES + 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("bytes_", "word"),
    [
        (b"", "closed"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "proper HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "proper HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 70000 + b"\r\n\r\n", "proper HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n", "proper HTTP"),
    ],
)
def test_what_is_no_http_is_a_failure_in_words(bytes_: bytes, word: str) -> None:
    with RawReceiver(answering(bytes_)) as receiver:
        answer = send(receiver.url())
    assert answer.status_code is None
    assert word in str(answer.error)


def test_nobody_listening_is_a_failure_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/").error == "connection refused"


def test_loopback_is_refused_unless_allowed_and_the_refusal_names_the_setting() -> None:
    courier = CallbackHttp(TargetRules(ports=((1, 65535),)), resolver=Names(localhost=[["127.0.0.1"]]))
    with RawReceiver(answering(OK)) as receiver:
        answers = [send(receiver.url(), courier), send(receiver.url("localhost"), courier)]
        assert receiver.connections == 0
    assert all("callbacks.allow_networks" in str(answer.error) for answer in answers)
    assert [answer.hopeless for answer in answers] == [True, False]
    assert not any(answer.sent for answer in answers)


@pytest.mark.parametrize("notation", ["0x7f.1", "2130706433", "0177.0.0.1", "127.1"])
def test_odd_notations_of_loopback_are_refused_when_the_socket_opens(notation: str) -> None:
    courier = CallbackHttp(TargetRules(ports=((1, 65535),)), timeout_seconds=60)
    with RawReceiver(answering(OK)) as receiver:
        answer = send(receiver.url(notation), courier)
        assert receiver.connections == 0
    assert "callbacks.allow_networks" in str(answer.error)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "fe80::1%lo"]
)
def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    answer = send(
        "http://inside.example:8000/", CallbackHttp(LOCAL, resolver=Names(inside_example=[[address]]))
    )
    assert "callbacks.allow_networks" in str(answer.error)
    assert address not in str(answer.error)


def test_one_forbidden_address_among_several_refuses_them_all() -> None:
    names = Names(mixed_example=[["127.0.0.1", "10.0.0.1"]])
    with RawReceiver(answering(OK)) as receiver:
        answer = send(receiver.url("mixed.example"), CallbackHttp(LOCAL, resolver=names))
        assert receiver.connections == 0
    assert answer.error == UNUSABLE


def test_a_name_that_changes_its_mind_is_refused_from_then_on() -> None:
    names = Names(rebinding_example=[["127.0.0.1"], ["10.0.0.1"]])
    courier = CallbackHttp(LOCAL, resolver=names)
    with RawReceiver(answering(OK)) as receiver:
        assert send(receiver.url("rebinding.example"), courier).status_code == 200
        assert names.asked == ["rebinding.example"]  # once: what was judged is what was connected to
        assert "allow_networks" in str(send(receiver.url("rebinding.example"), courier).error)


def test_a_name_is_sent_as_the_host_whatever_address_it_leads_to() -> None:
    names = Names(receiver_example=[["127.0.0.1"]])
    with RawReceiver(answering(OK)) as receiver:
        send(receiver.url("receiver.example"), CallbackHttp(LOCAL, resolver=names))
        assert f"Host: receiver.example:{receiver.port}\r\n".encode() in receiver.requests[0]


def test_the_next_address_is_tried_when_the_first_does_not_answer() -> None:
    both = TargetRules(ports=((1, 65535),), networks=parse_networks(["127.0.0.0/8"]))
    names = Names(two_example=[["127.0.0.9", "127.0.0.1"]])
    with RawReceiver(answering(OK)) as receiver:
        assert send(receiver.url("two.example"), CallbackHttp(both, resolver=names)).status_code == 200


def test_a_client_cannot_tell_an_unknown_name_from_an_internal_one() -> None:
    """Else callbacks would ask our resolver which internal names exist."""
    courier = CallbackHttp(LOCAL, resolver=Names(inner_example=[["10.0.0.7"]]))
    unknown, internal = (
        str(send(f"http://{name}.example:8000/", courier).error) for name in ("nowhere", "inner")
    )
    assert unknown == internal
    assert "callbacks.allow_networks" in unknown
    assert "callbacks.ports" in unknown


def test_a_resolver_that_never_answers_does_not_stretch_the_time() -> None:
    forever = threading.Event()

    def stuck(host: str, port: int) -> Sequence[str]:
        forever.wait(20)
        return []

    answer = send("http://slow.example:8000/", CallbackHttp(LOCAL, timeout_seconds=0.3, resolver=stuck))
    forever.set()
    assert answer.error == "no answer within 0.3 s"


def test_a_certificate_for_the_name_is_accepted(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "receiver.example")
    courier = CallbackHttp(
        LOCAL, ca_file=str(certificate), resolver=Names(receiver_example=[["127.0.0.1"]]), timeout_seconds=60
    )
    with RawReceiver(answering(OK), server_context(certificate, key)) as receiver:
        assert send(receiver.url("receiver.example"), courier).status_code == 200


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "other.example")
    courier = CallbackHttp(
        LOCAL, ca_file=str(certificate), resolver=Names(receiver_example=[["127.0.0.1"]]), timeout_seconds=60
    )
    with RawReceiver(answering(OK), server_context(certificate, key)) as receiver:
        answer = send(receiver.url("receiver.example"), courier)
        assert receiver.requests == []
    assert str(answer.error).startswith("TLS: the certificate is not valid")


@pytest.mark.parametrize("days", [1, -1])
def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path, days: int) -> None:
    certificate, key = make_certificate(tmp_path, "127.0.0.1", days=days)
    with RawReceiver(answering(OK), server_context(certificate, key)) as receiver:
        answer = send(receiver.url())
        assert receiver.requests == []
    assert str(answer.error).startswith("TLS: the certificate is not valid")


def test_plain_http_on_a_tls_port_is_a_failure_in_words() -> None:
    with RawReceiver(answering(OK)) as receiver:
        answer = send(receiver.url().replace("http:", "https:"), CallbackHttp(LOCAL, timeout_seconds=1))
    assert answer.status_code is None
    assert "TLS" in str(answer.error) or "no answer" in str(answer.error)


def test_the_total_time_holds_over_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    courier = CallbackHttp(LOCAL, ca_file=str(certificate), timeout_seconds=0.5)
    with RawReceiver(dripping_headers, server_context(certificate, key)) as receiver:
        assert send(receiver.url(), courier).error == "no answer within 0.5 s"


def test_a_connection_is_used_again() -> None:
    courier = CallbackHttp(LOCAL, timeout_seconds=60)
    with RawReceiver(answering(OK, OK, OK)) as receiver:
        assert [send(receiver.url(), courier).status_code for _ in range(3)] == [200] * 3
        assert receiver.connections == 1
    courier.close()


def test_a_connection_that_was_closed_while_idle_costs_nothing() -> None:
    courier = CallbackHttp(LOCAL, timeout_seconds=60)
    with RawReceiver(answering(OK)) as receiver:
        assert [send(receiver.url(), courier).status_code for _ in range(3)] == [200] * 3
        assert receiver.connections == 3
    courier.close()


def test_a_kept_connection_has_the_time_of_its_new_callback() -> None:
    courier = CallbackHttp(LOCAL, timeout_seconds=2.0)
    times, each = 9, 0.25  # together longer than the time of one

    def late(sock: socket.socket, stop: threading.Event) -> None:
        sock.sendall(OK)
        for _ in range(times):
            read_request(sock)
            stop.wait(each)
            sock.sendall(OK)

    with RawReceiver(late) as receiver:
        answers = [send(receiver.url(), courier) for _ in range(1 + times)]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert receiver.connections == 1
    courier.close()
