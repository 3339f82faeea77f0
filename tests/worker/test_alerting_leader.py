"""A real leader tells a real channel, by HTTP on loopback."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.db.alerts import load_channels
from app.db.budgets import add_spent
from app.db.clients import add_client
from app.db.database import Database
from app.db.migrate import upgrade
from app.domain.budget import Spent
from tests.stack import Key, Stack, configuration, key_environment, wait_until

KEYS = [Key("main")]
ALERTS = """
[alerts]
warning = ["env:HOOK", "env:UNSET_HOOK"]
critical = ["env:HOOK"]
heartbeat = "env:BEAT"
heartbeat_every = 0.2
every = 0.2
group = 0
[alerts.rule.cpu]
enabled = false
"""


class Channel:
    """An HTTP server that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.beats = 0
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                channel.messages.append(orjson.loads(body))
                self._well()

            def do_GET(self) -> None:
                channel.beats += 1
                self._well()

            def _well(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel()
    yield made
    made.close()


def test_a_leader_tells_what_fires_and_that_it_is_over_and_the_api_does_when_it_is_gone(
    tmp_path: Path, sqlite_url: str, redis_url: str, channel: Channel
) -> None:
    environment = {
        **key_environment(KEYS),
        "HOOK": f"json://127.0.0.1:{channel.port}/secret-path",
        "BEAT": f"http://127.0.0.1:{channel.port}/beat",
    }
    config = configuration("http://127.0.0.1:9/v1", KEYS, more=ALERTS)
    upgrade(sqlite_url)
    database = Database(sqlite_url)
    stack = Stack(
        tmp_path / "stack", config, database_url=sqlite_url, redis_url=redis_url, environment=environment
    )

    def spend(tokens: int) -> None:
        database.write(lambda conn: add_spent(conn, "alice", time.time(), Spent(tokens, 0)))

    try:
        with stack:
            limits = '{"limits": {"tokens_per_month": 100}}'
            database.write(lambda conn: add_client(conn, "alice", "whsec_x", 0.0, settings=limits))
            stack.start("dispatcher", "dispatcher")
            wait_until(lambda: channel.beats, within=40, what=f"a heartbeat\n{stack.logs()}")
            assert channel.messages == []
            spend(90)
            wait_until(lambda: channel.messages, within=30, what=f"the alert\n{stack.logs()}")
            assert "alice" in stack.penstock("alerts", "list")
            spend(-80)
            wait_until(lambda: len(channel.messages) > 1, within=40, what=f"its end\n{stack.logs()}")
            fired, resolved = channel.messages
            assert fired["title"] == "Penstock warning: 1 firing"
            assert "FIRING budget (alice): the client alice has used 90.0 % of a budget" in fired["message"]
            assert "docs/runbook.md#budget" in fired["message"]
            assert "RESOLVED budget (alice)" in resolved["message"]
            fared = {one.name: one.error for one in database.read(load_channels)}
            assert fared["warning 1"] is None
            assert fared["heartbeat"] is None
            assert "UNSET_HOOK is not set" in str(fared["warning 2"])
            assert "critical 1: it arrived" in stack.penstock("alerts", "test", "--severity", "critical")
            assert channel.messages.pop()["title"] == "Penstock critical: a test"
            stack.kill("dispatcher")
            stack.start("api", "api", "--port", str(stack.port))
            spend(80)
            wait_until(lambda: len(channel.messages) > 2, within=60, what=f"the API's word\n{stack.logs()}")
            assert "FIRING budget (alice)" in channel.messages[2]["message"]
            assert "secret-path" not in stack.logs()
    finally:
        database.close()
