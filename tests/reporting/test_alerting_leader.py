"""A real leader tells a real channel, by HTTP on loopback."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from app.access.store.clients import add_client
from app.billing.domain.budget import Spent
from app.billing.store.budgets import add_spent
from app.cli.alerts import group
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.reporting.store.alerts import load_alerts, load_channels, watcher
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

    def heard(self, text: str) -> bool:
        """Whether a message says this."""
        return any(text in message["message"] for message in self.messages)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel()
    yield made
    made.close()


@pytest.mark.timeout(300)
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

    def watches(process: int) -> bool:
        return f":{process}:" in database.read(watcher)[0]

    def wait(condition: Callable[[], Any], what: str) -> None:
        wait_until(condition, what=f"{what}\n{channel.messages}\n{stack.logs()}")

    try:
        with stack:
            limits = '{"limits": {"tokens_per_month": 100}}'
            database.write(lambda conn: add_client(conn, "alice", "whsec_x", 0.0, settings=limits))
            stack.start("api", "api", "--port", str(stack.port))
            leader = stack.start("dispatcher", "dispatcher").pid
            wait(lambda: watches(leader) and channel.beats, "the leader watches, and says that all is well")
            assert channel.messages == []
            spend(90)
            wait(lambda: channel.heard("FIRING budget (alice)"), "the alert")
            assert channel.heard("the client alice has used 90.0 % of a budget")
            assert channel.heard("docs/runbook.md#budget")
            assert channel.messages[0]["title"] == "Penstock warning: 1 firing"
            assert "alice" in command(stack, "list")
            spend(-80)
            wait(lambda: channel.heard("RESOLVED budget (alice)"), "its end")
            fared = {one.name: one.error for one in database.read(load_channels)}
            assert "UNSET_HOOK is not set" in str(fared["warning 2"])
            # Killed between sending and noting that, it would leave an alert whose channels are taken to know of it.
            wait(
                lambda: not any(one.notified for one in database.read(load_alerts).values()),
                "the note of its end",
            )
            stack.kill("dispatcher")
            channel.messages.clear()
            spend(80)
            wait(lambda: channel.heard("FIRING budget (alice)"), "the API's word")
            assert not watches(leader)
            assert "critical 1: delivered" in command(stack, "test", "--severity", "critical")
            assert channel.heard("Nothing is wrong.")
            assert "secret-path" not in stack.logs()
    finally:
        database.close()


def command(stack: Stack, *arguments: str) -> str:
    """What `penstock alerts` prints."""
    done = CliRunner(env=stack.environment).invoke(group, arguments)
    assert done.exit_code == 0, done.output
    return done.output
