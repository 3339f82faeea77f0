"""What containers ask to know whether they are well."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import redis

SCRIPT = Path(__file__).parents[2] / "deploy" / "health.py"


def _health(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def beating(redis_url: str):
    """A leader's beat, as the dispatcher keeps it."""
    stopped = threading.Event()
    client = redis.Redis.from_url(redis_url)

    def beat() -> None:
        while not stopped.wait(0.05):
            client.hincrby("penstock:gate", "beat")

    thread = threading.Thread(target=beat)
    thread.start()
    yield redis_url
    stopped.set()
    thread.join()
    client.close()


def test_all_is_well_while_a_leader_beats(beating: str) -> None:
    assert _health("leader", REDIS_URL=beating).returncode == 0


def test_a_beat_that_stands_still_is_told(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("penstock:gate", "beat", 7)
    done = _health("leader", REDIS_URL=redis_url)
    assert (done.returncode, "no dispatcher leads" in done.stderr) == (1, True)


def test_redis_out_of_reach_is_told_without_its_address() -> None:
    done = _health("leader", REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    assert (done.returncode, done.stderr.strip()) == (1, "Redis: ConnectionError")


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("path", "code"), [("/readyz", 0), ("/broken", 1)])
def test_a_page_is_well_when_it_answers_with_success(path: str, code: int) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert _health("http", f"http://127.0.0.1:{server.server_port}{path}").returncode == code
    server.shutdown()
    thread.join()
    server.server_close()
