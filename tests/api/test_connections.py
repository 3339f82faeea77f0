"""Connections that say nothing, or not all of it: the API goes on answering others. A real gunicorn, without a key."""

import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil
import pytest

from app.api.serve import Serving, serve
from app.cli.processes import raise_open_files
from tests.ports import kept_port
from tests.stack import wait_until

SILENT = 1_700  # more than `worker_connections`
HALF = 650  # more than there are threads
THREADS = 576
WITHIN = 1.0  # second
LATE = 12.0  # seconds after which who has sent no head is gone


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    answer = environ["SCRIPT_NAME"].encode() + b"|" + environ["PATH_INFO"].encode() + b" " + body
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


class Api:
    def __init__(self) -> None:
        self.port = kept_port()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                raise_open_files()
                serve(lambda: application, Serving(port=self.port, threads=THREADS, graceful_seconds=5))
            finally:
                os._exit(0)

    def connect(self, sent: bytes = b"", timeout: float = 30) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(sent)
        return connection

    def answers(self, timeout: float = WITHIN) -> bool:
        try:
            with self.connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", timeout) as connection:
                return connection.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def threads(self) -> int:
        return sum(child.num_threads() for child in psutil.Process(self.pid).children())

    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.pid).children()]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4_096:
        pytest.skip("more open files are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4_096), hard))
    found = Api()
    try:
        wait_until(found.answers, what="API")
        yield found
    finally:
        os.kill(found.pid, signal.SIGTERM)
        os.waitpid(found.pid, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def watch(api: Api, seconds: float) -> list[float]:
    """How long each look took; one that got no answer is infinite."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        found.append(time.monotonic() - began if api.answers() else float("inf"))
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("count", "sent"),
    [
        (SILENT, b""),
        (HALF, b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "),
        (HALF, b"GET /x HTTP/1.1\r\n" + b"A: b\r\n" * 3_000),
    ],
    ids=["silent", "half a head", "much of a head"],
)
def test_who_sends_no_whole_head_holds_up_nobody_and_no_thread(api: Api, count: int, sent: bytes) -> None:
    workers, before, held = api.workers(), api.threads(), []

    def attack() -> None:
        held.extend(api.connect(sent) for _ in range(count))

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        taken = watch(api, 4.0)
        attacker.join()
        assert len(held) == count
        taken += watch(api, 2.0)
        assert max(taken) < WITHIN
        assert len(taken) > 10
        assert api.threads() < before + 50
        assert api.workers() == workers
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nA: ", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, b"HTTP/1.1 431 "),
    ],
    ids=["silent", "half", "endless"],
)
def test_who_sends_no_whole_head_is_let_go_after_some_seconds(api: Api, sent: bytes, said: bytes) -> None:
    began = time.monotonic()
    with api.connect(sent) as connection:
        answer = connection.recv(13)
    assert answer == said
    assert time.monotonic() - began < LATE


def _answer(connection: socket.socket) -> bytes:
    """One whole answer: the next one may follow on the connection."""
    with connection.makefile("rb", buffering=0) as reader:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += reader.read(1) or b""
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None, head
        return head + connection.recv(int(length[1]), socket.MSG_WAITALL)


def test_a_kept_alive_connection_with_half_a_head_holds_no_thread_and_is_let_go(api: Api) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for rest in (whole + b"GET /more HTTP", whole):
        with api.connect(rest) as connection:
            assert _answer(connection).startswith(b"HTTP/1.1 200")
            if rest == whole:
                connection.sendall(b"GET /more HTTP")
            began = time.monotonic()
            assert connection.recv(13) == b"HTTP/1.1 408 "
            assert time.monotonic() - began < LATE


@pytest.mark.parametrize("size", [1, 3, 7, 40, 4096])
def test_requests_cut_anywhere_and_one_behind_the_other_are_answered_in_order(api: Api, size: int) -> None:
    body = b"hello" * 2_000
    one = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + body
    sent = b"".join(
        [one % number for number in range(1, 4)]
        + [b"GET /end HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n"]
    )
    with api.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, 400, size):
            connection.sendall(sent[at : min(at + size, 400)])
        connection.sendall(sent[400:])
        found = b"".join(iter(lambda: connection.recv(65536), b""))
    assert found.count(b"HTTP/1.1 200") == 4
    assert [found.index(b"/%d %s" % (number, body)) for number in (1, 2, 3)] == sorted(
        found.index(b"/%d %s" % (number, body)) for number in (1, 2, 3)
    )
    assert found.endswith(b"/end ")


def test_who_hangs_up_amidst_a_head_leaves_nothing(api: Api) -> None:
    worker = psutil.Process(api.workers()[0])
    before = worker.num_fds()
    for _ in range(200):
        api.connect(b"GET / HT").close()
        api.connect().close()
    wait_until(lambda: worker.num_fds() <= before + 5, what="closed connections")
    assert api.answers()


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "PATH_INFO"])
def test_no_header_of_a_peer_on_this_machine_sets_the_path(api: Api, name: str) -> None:
    asked = f"GET /x/metrics HTTP/1.1\r\nHost: x\r\n{name}: /x\r\nConnection: close\r\n\r\n"
    with api.connect(asked.encode()) as connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ") or answer.endswith(b"\r\n\r\n|/x/metrics ")
