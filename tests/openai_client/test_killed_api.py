"""The API killed (kill -9) with everything under way: nothing is half-made, and whoever comes again finds their own."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import urllib3
from sqlalchemy import func, select

from app.platform.database import Database
from app.tasks.store.tables import batch, task, waiting_call
from tests.openai_client.world import RECORDED, Recorder, ask, configuration
from tests.servers import PostgresServer, RedisServer
from tests.stack import PATIENCE, Caller, Stack, key_environment, wait_until

HALF, LINES = 2000, 12_000
CHAT = orjson.dumps({"model": RECORDED, "messages": ask("who waits?")})
KEYED = {"idempotency_key": "k-1", "content_type": "application/x-ndjson"}


class Service:
    """A stack whose API can be killed, and a look into its database."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.recorder = Recorder()
        self.stack = Stack(
            folder,
            configuration(self.recorder.base_url, self.recorder.base_url),
            database_url=database_url,
            redis_url=redis_url,
            environment={**key_environment(()), **{f"KEY_{name}": "sk" for name in ("FAST", "ONE", "SECOND")}}
            | {"KEY_RECORDER": "sk-recorder"},
        )
        self.database = Database(database_url)

    def start_api(self) -> None:
        self.stack.start("api", "api", "--port", str(self.stack.port))
        wait_until(self.stack.answers, what="API")

    def kill_api(self) -> None:
        """Master first, or it would start another."""
        master = psutil.Process(self.stack.processes["api"].pid)
        children = master.children(recursive=True)
        self.stack.kill("api")
        for child in children:
            with suppress(psutil.NoSuchProcess):  # it has followed its master by itself
                child.kill()
        psutil.wait_procs(children, timeout=PATIENCE)

    def rows(self, *conditions: Any) -> int:
        found = select(func.count()).select_from(task).where(*conditions)
        return int(self.database.read(lambda conn: conn.execute(found).scalar_one()))

    def stop(self) -> None:
        self.stack.stop()
        self.recorder.stop()
        self.database.close()


@pytest.fixture
def service(
    tmp_path: Path, postgres_server: PostgresServer, make_redis: Callable[..., RedisServer]
) -> Iterator[Service]:
    url = postgres_server.create_database()
    made = Service(tmp_path / "stack", url, make_redis().url)
    try:
        made.stack.penstock("db", "upgrade")
        yield made
    finally:
        made.stop()
        postgres_server.drop_database(url)


def native_lines() -> list[bytes]:
    return [
        orjson.dumps({"model": RECORDED, "prompt": f"line {n} {'long ' * 20}"}) + b"\n"
        for n in range(2 * HALF)
    ]


def begin_lines(stack: Stack) -> http.client.HTTPConnection:
    """Half of a batch is sent; the rest never comes."""
    lines = native_lines()
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=PATIENCE)
    connection.putrequest("POST", "/v1/batch")
    connection.putheader("Authorization", f"Bearer {stack.admin_key}")
    connection.putheader("Idempotency-Key", KEYED["idempotency_key"])
    connection.putheader("Content-Type", KEYED["content_type"])
    connection.putheader("Content-Length", str(sum(map(len, lines))))
    connection.endheaders()
    connection.send(b"".join(lines[:HALF]))
    return connection


def begin_file(caller: Caller) -> str:
    """A batch over a large file, which is taken in behind the answer; gives back its id."""
    url = "/v1/chat/completions"
    lines = [
        orjson.dumps(
            {
                "custom_id": f"{n}",
                "method": "POST",
                "url": url,
                "body": {"model": RECORDED, "messages": ask("x")},
            }
        )
        for n in range(LINES)
    ]
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    form += b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"\n".join(lines)
    sent = caller.call(
        "POST", "/v1/files", form + b"\r\n--x--\r\n", content_type="multipart/form-data; boundary=x"
    )
    body = {"input_file_id": sent.body["id"], "endpoint": url, "completion_window": "24h"}
    return str(caller.call("POST", "/v1/batches", body).body["id"])


def chat(stack: Stack, tries: int) -> Any:
    headers = {
        "authorization": f"Bearer {stack.admin_key}",
        "content-type": "application/json",
        "x-stainless-retry-count": str(tries),
    }
    url = f"{stack.url}/v1/chat/completions"
    return urllib3.request("POST", url, body=CHAT, headers=headers, timeout=PATIENCE, retries=False)


def hung_up(stack: Stack) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        chat(stack, 0)


def test_after_a_kill_nothing_is_half_made_and_everything_can_be_repeated_or_goes_on(
    service: Service,
) -> None:
    stack, caller = service.stack, service.stack.admin
    stack.start("dispatcher-1", "dispatcher")  # without a worker nothing is released
    service.start_api()
    waiting = threading.Thread(target=hung_up, args=(stack,))
    waiting.start()
    half = begin_lines(stack)
    wait_until(lambda: service.rows(task.c.batch_id.is_(None)) == 1, what="the chat's task")
    wait_until(lambda: service.rows() > 1000, what="a part of the lines")
    over_file = begin_file(caller)
    mine = task.c.batch_id == over_file
    wait_until(lambda: service.rows(mine), what="a part of the file", every=0.01)
    service.kill_api()
    waiting.join(PATIENCE)
    half.close()

    service.start_api()
    ids = select(task.c.batch_id).where(task.c.batch_id != over_file).distinct()
    (half_made,) = service.database.read(lambda conn: conn.execute(ids).scalars().all())
    assert caller.call("GET", f"/v1/batch/{half_made}").status == 404
    assert caller.call("GET", f"/v1/tasks?batch_id={half_made}").body.get("data", []) == []
    (shown,) = service.database.read(
        lambda conn: conn.execute(select(task.c.id).where(task.c.batch_id.is_(None))).scalars().all()
    )
    assert [b["id"] for b in caller.call("GET", "/v1/batches").body["data"]] == [over_file]
    again = caller.call("POST", "/v1/batch", b"".join(native_lines()), **KEYED)
    assert (again.status, again.body["request_counts"]["total"]) == (202, 2 * HALF)
    assert "Idempotent-Replayed" not in again.headers

    stack.start("worker-1", "worker", "--name", "worker-1")
    free = select(waiting_call.c.connection.is_(None)).where(waiting_call.c.task_id == shown)
    wait_until(
        lambda: service.database.read(lambda conn: conn.execute(free).scalar_one()),
        what="the dead process noticed",
    )
    answered = chat(stack, 1)
    assert (answered.status, answered.headers["x-penstock-task"]) == (200, shown)
    assert service.rows(task.c.batch_id.is_(None)) == 1, "the repeat made no task of its own"
    state = select(batch.c.status, batch.c.total).where(batch.c.id == over_file)
    wait_until(
        lambda: service.database.read(lambda conn: conn.execute(state).one()) == ("in_progress", LINES),
        what="the file taken in by another process",
    )
    assert service.rows(mine) == service.rows(mine, task.c.batch_index < LINES) == LINES
