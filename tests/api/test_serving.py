"""The API as it is served: real sockets, a real Redis that freezes, a real database that dies."""

import http.client
import os
import select
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import redis

from tests.servers import PostgresServer, RedisServer
from tests.stack import PATIENCE, Caller, Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("k1")]
POLLS = 500
UNTAKEN = 32 << 20  # bytes of an answer


class Api:
    """One API process under its own command line."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.stack = Stack(
            folder,
            configuration("http://127.0.0.1:9/v1", KEYS, more="[api]\npatience = 4.0\n"),
            database_url=database_url,
            redis_url=redis_url,
            environment=key_environment(KEYS),
        )
        self.stack.penstock("db", "upgrade")
        self.process: subprocess.Popen[bytes] = self.stack.start("api", "api", "--port", str(self.stack.port))
        self.admin: Caller = self.stack.admin
        wait_until(self.answers, what=f"API\n{self.stack.logs('api')}")

    def answers(self) -> bool:
        try:
            return self.admin.call("GET", "/readyz").status == 200
        except Exception:  # noqa: BLE001 - whatever it is, it does not answer yet
            return False

    def raw(self, sent: bytes) -> bytes:
        """Send bytes, read to the end."""
        with socket.create_connection(("127.0.0.1", self.stack.port), timeout=PATIENCE) as connection:
            connection.sendall(sent)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def head(self, line: str, *more: str) -> bytes:
        """The head of a request with the administrator's key."""
        lines = (line, "Host: x", f"Authorization: Bearer {self.admin.key}", "Connection: close", *more)
        return "\r\n".join((*lines, "", "")).encode()


@pytest.fixture(scope="module")
def untaken(api: Api) -> Iterator[socket.socket]:
    """The connection of a client that asks for far more than sockets hold, and then reads nothing."""
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    form += b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * UNTAKEN
    media = "multipart/form-data; boundary=x"
    sent = api.admin.call("POST", "/v1/files", form + b"\r\n--x--\r\n", content_type=media)
    assert sent.status == 200, sent
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it is connected
        connection.connect(("127.0.0.1", api.stack.port))
        connection.sendall(api.head(f"GET /v1/files/{sent.body['id']}/content HTTP/1.1"))
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("serving")
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()  # what an earlier stack has left there
    api = Api(folder, f"sqlite:///{folder}/penstock.db", redis_server.url)
    yield api
    api.stack.stop()


def body_of(answer: bytes) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head.lower()
    assert b"x-request-id" in head.lower()
    return orjson.loads(body)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % n for n in range(101)) + b"\r\n", 431),
    ],
)
def test_what_is_not_http_is_refused_in_the_envelope(api: Api, sent: bytes, status: int) -> None:
    answer = api.raw(sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert body_of(answer)["error"]["code"] == "malformed_request"


@pytest.mark.usefixtures("untaken")  # begun early: see the last test
def test_who_sends_a_byte_now_and_then_is_sent_away(api: Api) -> None:
    """In the head and in the body alike; a whole request meanwhile is served."""
    starts = (
        b"GET / HTTP/1.1\r\nA: ",
        api.head("POST /v1/tasks HTTP/1.1", "Content-Length: 1000") + b'{"a": "',
    )
    connections = [socket.create_connection(("127.0.0.1", api.stack.port), timeout=PATIENCE) for _ in starts]
    try:
        for connection, start in zip(connections, starts, strict=True):
            connection.sendall(start)
        waiting, until = dict(zip(connections, starts, strict=True)), time.monotonic() + PATIENCE
        while waiting and time.monotonic() < until:
            for connection in select.select(list(waiting), [], [], 0.2)[0]:
                answer = b"".join(iter(lambda one=connection: one.recv(65536), b""))
                assert answer.startswith(b"HTTP/1.1 408 "), answer
                assert answer.count(b"HTTP/1.1") == 1
                waiting.pop(connection)
            for connection in waiting:
                connection.sendall(b"x")
        assert not waiting
        assert api.admin.call("GET", "/v1/tasks").status == 200
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("body", [b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n"])
def test_a_malformed_chunk_is_the_senders_fault(api: Api, body: bytes) -> None:
    head = api.head("POST /v1/tasks HTTP/1.1", "Transfer-Encoding: chunked", "Content-Type: application/json")
    answer = api.raw(head + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert body_of(answer)["error"]["code"] in ("malformed_body", "malformed_request", "incomplete_body")


def test_a_chunked_body_is_taken_and_kept_within_its_limit(api: Api) -> None:
    head = api.head("POST /v1/tasks HTTP/1.1", "Transfer-Encoding: chunked")
    piece = b'{"prompt": "hello"}'
    assert api.raw(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(piece), piece)).startswith(b"HTTP/1.1 202 ")
    large = b"x" * (1 << 20)
    endless = b"%x\r\n%s\r\n" % (len(large), large) * 11 + b"0\r\n\r\n"
    assert api.raw(head + endless).startswith(b"HTTP/1.1 413 ")


def test_a_body_above_10_mib_is_413_also_for_a_client_that_sends_all_of_it_first(api: Api) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.stack.port, timeout=PATIENCE)
    connection.request("POST", "/v1/tasks", b"x" * (11 << 20), {"Authorization": f"Bearer {api.admin.key}"})
    answer = connection.getresponse()
    assert answer.status == 413
    assert orjson.loads(answer.read())["error"]["code"] == "request_too_large"
    connection.close()


@pytest.mark.parametrize(("connection", "mib"), [("keep-alive", 70), ("close", 40)])
def test_an_upload_that_is_refused_early_is_read_out_so_that_its_answer_arrives(
    api: Api, connection: str, mib: int
) -> None:
    client = http.client.HTTPConnection("127.0.0.1", api.stack.port, timeout=PATIENCE)
    headers = {
        "Authorization": "Bearer pk_wrong",
        "Connection": connection,
        "Content-Type": "multipart/form-data",
    }
    client.request("POST", "/v1/files", b"x" * (mib << 20), headers)
    answer = client.getresponse()
    assert (answer.status, orjson.loads(answer.read())["error"]["code"]) == (401, "invalid_api_key")
    client.close()


def test_an_upload_that_is_cut_off_leaves_nothing(api: Api) -> None:
    lines = b'{"prompt": "hello"}\n' * 3000
    head = api.head(
        "POST /v1/batch HTTP/1.1", "Content-Type: application/jsonl", f"Content-Length: {len(lines) + 9}"
    )
    before = api.admin.call("GET", "/v1/tasks?limit=1").body["first_id"]
    with socket.create_connection(("127.0.0.1", api.stack.port), timeout=PATIENCE) as connection:
        connection.sendall(head + lines)
    counted = 'penstock_http_requests_total{method="POST",route="/v1/batch",status="400"}'
    wait_until(
        lambda: counted.encode() in api.admin.call("GET", "/metrics").body, what="the end of the intake"
    )
    assert api.admin.call("GET", "/v1/tasks?limit=1").body["first_id"] == before


def test_a_look_at_the_head_of_an_answer_has_no_body(api: Api) -> None:
    head, _, body = api.raw(api.head("HEAD /v1/models HTTP/1.1")).partition(b"\r\n\r\n")
    assert (head.partition(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"")


def resident_mib(pid: int) -> float:
    """What a process and its children hold in memory."""
    pids = [pid, *(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_uploads_and_results_of_any_size_take_little_memory(api: Api) -> None:
    line = orjson.dumps({"prompt": "x" * 64_000}) + b"\n"
    count = 1500  # 96 MB

    def upload() -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", api.stack.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {api.admin.key}", "Content-Type": "application/x-ndjson"}
        connection.request("POST", "/v1/batch", (line for _ in range(count)), headers, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 202
        return orjson.loads(answer.read())

    api.admin.submit_batch(["warm up"] * 50)
    before = resident_mib(api.process.pid)
    batch = upload()
    assert batch["request_counts"]["total"] == count
    assert resident_mib(api.process.pid) - before < 60
    assert api.admin.call("POST", f"/v1/batch/{batch['id']}/cancel").status == 200


def open_polls(api: Api, task_id: str, count: int) -> list[socket.socket]:
    request = api.head(f"GET /v1/tasks/{task_id}?wait=60 HTTP/1.1")
    connections = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", api.stack.port), timeout=PATIENCE)
        connection.sendall(request)
        connections.append(connection)
    return connections


def waiting(api: Api) -> int:
    page = api.admin.call("GET", "/metrics").body.decode()
    return next(
        int(float(line.split()[1])) for line in page.splitlines() if line.startswith("penstock_waiters ")
    )


def test_who_hangs_up_in_the_middle_of_a_long_poll_frees_its_place(api: Api) -> None:
    task_id = api.admin.submit("waits for ever")
    stayed, left = open_polls(api, task_id, 2)
    try:
        wait_until(lambda: waiting(api) == 2, what="both polls")
        left.close()
        wait_until(lambda: waiting(api) == 1, what="the place of who hung up")
        assert select.select([stayed], [], [], 0)[0] == []
    finally:
        stayed.close()
        left.close()


def test_500_idle_long_polls_starve_nobody_and_all_are_answered_at_the_end(
    tmp_path: Path, redis_url: str
) -> None:
    api = Api(tmp_path, f"sqlite:///{tmp_path}/penstock.db", redis_url)
    connections: list[socket.socket] = []
    try:
        task_id = api.admin.submit("waits for ever")
        connections = open_polls(api, task_id, POLLS)
        wait_until(lambda: waiting(api) == POLLS, what=f"{POLLS} polls")
        began = time.monotonic()
        for number in range(5):
            assert api.admin.submit(f"meanwhile {number}")
        assert time.monotonic() - began < 30  # not until the polls are over
        with selectors.DefaultSelector() as answered:
            for connection in connections:
                answered.register(connection, selectors.EVENT_READ)
            assert answered.select(timeout=0) == []
        api.process.send_signal(signal.SIGTERM)
        for connection in connections:
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert api.process.wait(PATIENCE) == 0
    finally:
        for connection in connections:
            connection.close()
        api.stack.stop()


def took(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    value = call()
    return time.monotonic() - began, value


def test_with_redis_frozen_or_gone_a_submission_is_still_202_within_a_second(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    server = make_redis()
    api = Api(tmp_path, f"sqlite:///{tmp_path}/penstock.db", server.url)
    try:
        api.admin.submit("before")
        server.pause()
        for call in (lambda: api.admin.submit("frozen"), lambda: api.admin.submit_batch(["frozen"] * 3)):
            seconds, made = zip(*(took(call) for _ in range(4)), strict=True)
            # A machine may stumble once, not each time; a call that waited for Redis would take 10 s and more.
            assert min(seconds) < 1
            assert max(seconds) < 8
            for one in made:
                path = f"/v1/tasks/{one}" if isinstance(one, str) else f"/v1/batch/{one['id']}"
                assert api.admin.call("GET", path).body["status"] in ("queued", "in_progress")
        server.resume()
        server.kill()
        seconds, ids = zip(*(took(lambda: api.admin.submit("gone")) for _ in range(4)), strict=True)
        assert min(seconds) < 1
        task_id = ids[0]
        assert api.admin.call("POST", f"/v1/tasks/{task_id}/cancel").body["status"] == "cancelled"
        assert api.admin.call("GET", "/readyz").status == 200
    finally:
        api.stack.stop()


def test_with_the_database_gone_nothing_is_accepted_until_it_is_back(
    tmp_path: Path, redis_url: str, make_postgres: Callable[[], PostgresServer]
) -> None:
    server = make_postgres()
    api = Api(tmp_path, server.create_database(), redis_url)
    try:
        api.admin.submit("before")
        server.kill()
        for path, body in (("/v1/tasks", {"prompt": "x"}), ("/v1/batch", {"requests": [{"prompt": "x"}]})):
            answer = api.admin.call("POST", path, body)
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.body["error"]["code"] == "database_unreachable"
        assert api.admin.call("GET", "/readyz").status == 503
        assert api.admin.call("GET", "/healthz").status == 200
        server.restart()
        wait_until(api.answers, what="the database again")
        api.admin.submit("after")
        assert len(api.admin.call("GET", "/v1/tasks").body["data"]) == 2
    finally:
        api.stack.stop()


def holds(api: Api, connection: socket.socket) -> bool:
    """Whether the API has its end of a connection open still."""
    master = psutil.Process(api.process.pid)
    ports = {
        end.raddr.port
        for process in (master, *master.children(recursive=True))
        for end in process.net_connections("tcp")
        if end.raddr
    }
    return connection.getsockname()[1] in ports


def test_who_does_not_take_an_answer_is_given_up(api: Api, untaken: socket.socket) -> None:
    """Its thread is free again; the answer does not fit into sockets. The last test, as its patience runs out."""
    wait_until(lambda: not holds(api, untaken), what="the API gives it up")
