"""Commands on pauses, keys and policies say what they did; over a loopback service that answers from a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from app.api.monitoring import profile_written
from app.cli.profile import Profile, save
from app.cli.root import group
from app.platform.database import Database
from app.platform.migrate import upgrade

KEY = {"name": "k1", "upstream": "up", "account": "a", "state": "active", "reason": "", "models": []}


class Service(ThreadingHTTPServer):
    """Pauses that can be ended, and no keys."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paused: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def shown(self) -> Any:
        return {"data": [{"subject": subject} for subject in sorted(self.paused)]}


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self._answer(self.server.shown() if "pauses" in self.path else {"data": []})

    def do_POST(self) -> None:
        subject = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ((kind, name),) = subject.items()
        self.server.paused.discard("everything" if kind == "everything" else f"{kind}:{name}")
        self._answer(self.server.shown())

    def _answer(self, body: Any) -> None:
        sent = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    served = Service()
    Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    save(tmp_path / "data", Profile(url=served.url, api_key="pk_x"))
    yield served
    served.shutdown()
    served.server_close()


def said(*arguments: str) -> str:
    done = CliRunner().invoke(group, arguments)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("paused", "arguments", "words"),
    [
        ({"model:m"}, ["--model", "m"], ["resumed: model m"]),
        ({"model:m", "client:c"}, ["--client", "c"], ["resumed: client c", "still paused: model m"]),
        ({"everything"}, ["--everything"], ["resumed: everything"]),
        (set(), ["--model", "m"], ["model m was not paused"]),
    ],
)
def test_resume_says_what_it_ended(
    service: Service, tmp_path: Path, paused: set[str], arguments: list[str], words: list[str]
) -> None:
    service.paused = paused
    assert said("resume", *arguments, "--data", str(tmp_path / "data")).splitlines() == words


def test_keys_takes_the_same_options_with_and_without_a_subcommand(service: Service, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    expected = said("keys", "list", "--data", data)
    assert said("keys", "--data", data) == said("keys", "--data", data, "list") == expected
    assert json.loads(said("keys", "--url", service.url, "--key", "pk_x", "--json")) == {"data": []}


def test_an_empty_list_of_policies_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'penstock.db'}"
    upgrade(url)
    Database(url).close()
    monkeypatch.setenv("DATABASE_URL", url)
    done = CliRunner().invoke(group, ["policy", "list"])
    assert "penstock policy add" in done.stderr
    assert done.stdout == ""


def test_a_service_is_ready_once_its_profile_names_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "profile.json"
    ready = profile_written({"PENSTOCK_PROFILE": f"http://127.0.0.1:8000 {path}"})
    assert not ready()
    save(path.parent, Profile(url="http://127.0.0.1:9999"))  # of an earlier run
    assert not ready()
    save(path.parent, Profile(url="http://127.0.0.1:8000"))
    assert ready()
    assert profile_written({})()  # started by hand, without `penstock up`
