"""A secret that is exchanged where the configuration points is what the next call carries, on a whole service."""

from __future__ import annotations

import base64
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.profile import load
from tests.cli.running import Running, http, penstock
from tests.e2e.up import READY
from tests.ports import kept_port
from tests.stack import PATIENCE, wait_until
from tests.upstreams.wire import Peer, WireServer, answer

CONFIGURATION = """
default_model = "m"
[health]
retest = 1
[[upstream]]
name = "up"
base_url = "{url}/v1"
headers = {{ X-Team = "file:{folder}/team" }}
proxy = "{url}"
proxy_auth = "command:cat {folder}/proxy"
[[key]]
name = "main"
upstream = "up"
secret = "file:{folder}/main"
[[model]]
name = "m"
tiers = [["main"]]
"""
MODELS = b'{"object":"list","data":[{"id":"m"}]}'


class Provider(WireServer):
    """Knows one secret; is its own proxy, so that it sees what is meant for one."""

    def __init__(self) -> None:
        self.good = ""
        self.calls: list[tuple[str, str, str]] = []  # authorization, team, proxy authorization, of chat calls
        self._changed = threading.Lock()
        super().__init__(self._serve_all)

    def _serve_all(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            line, headers, _ = request
            carried = headers.get("authorization", "").removeprefix("Bearer ")
            if line.startswith("POST"):
                proxy = headers.get("proxy-authorization", "")
                with self._changed:
                    self.calls.append((carried, headers.get("x-team", ""), proxy))
            if carried != self.good:
                peer.send(answer(b'{"error":{"message":"Invalid API key"}}', "401 Unauthorized"))
            else:
                peer.send(answer(MODELS) if line.startswith("GET") else answer())


class Service:
    """`penstock up` before that provider."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self.folder, self.provider = folder, provider
        self.rotate("first")
        (folder / "penstock.toml").write_text(CONFIGURATION.format(url=provider.url, folder=folder))
        ports = ("--port", str(kept_port()), "--flower-port", str(kept_port()))
        self.running = Running("up", *ports, cwd=folder)

    def rotate(self, word: str) -> None:
        """All secrets are others from now on, here and at the provider."""
        for name in ("main", "team", "proxy"):
            (self.folder / name).write_text(f"secret-{name}-{word}:x\n")
        self.provider.good = f"secret-main-{word}:x"

    def run(self, *arguments: str) -> None:
        done = penstock(*arguments, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def logs(self) -> str:
        files = [file for file in (self.folder / ".penstock" / "logs").iterdir() if file.is_file()]
        return self.running.said + "".join(file.read_text(errors="replace") for file in files)

    def said(self, words: str, times: int) -> None:
        wait_until(lambda: self.logs().count(words) >= times, within=PATIENCE, what=f"{words} {times} times")

    def calls_of_one_task(self) -> list[tuple[str, str, str]]:
        """What was carried until a new task succeeded."""
        before = len(self.provider.calls)
        profile = load(self.folder / ".penstock")
        headers = {"Authorization": f"Bearer {profile.api_key}", "Content-Type": "application/json"}
        made = http("POST", f"{profile.url}/v1/tasks", headers=headers, body=b'{"prompt":"hello"}')
        assert made is not None
        assert made.status == 202, made.data
        address = f"{profile.url}/v1/tasks/{made.json()['id']}?wait=20"

        def succeeded() -> bool:
            seen = http("GET", address, headers=headers)
            return seen is not None and seen.json()["status"] == "succeeded"

        wait_until(succeeded, within=PATIENCE, what=self.logs())
        return self.provider.calls[before:]


def carried(word: str) -> tuple[str, str, str]:
    """What a call carries with the secrets of that name."""
    proxy = base64.b64encode(f"secret-proxy-{word}:x".encode()).decode()
    return f"secret-main-{word}:x", f"secret-team-{word}:x", f"Basic {proxy}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("rotated")
    with Provider() as provider:
        made = Service(folder, provider)
        with made.running:
            made.running.until(READY)
            yield made


TAKEN = "rotated secrets are in use"


@pytest.mark.timeout(600)
def test_a_rotated_secret_is_taken_whatever_asks_for_it(service: Service) -> None:
    assert service.calls_of_one_task() == [carried("first")]

    service.rotate("reloaded")
    service.run("reload")
    service.said(TAKEN, 1)
    assert service.calls_of_one_task() == [carried("reloaded")]

    service.rotate("hung-up")
    service.running.process.send_signal(signal.SIGHUP)
    service.said(TAKEN, 2)
    assert service.calls_of_one_task() == [carried("hung-up")]

    service.rotate("tested")
    service.run("keys", "test", "main")
    service.said(TAKEN, 3)
    assert service.calls_of_one_task() == [carried("tested")]

    service.rotate("refused")  # and nobody is told
    assert service.calls_of_one_task() == [carried("tested"), carried("refused")]

    (service.folder / "proxy").unlink()  # the command fails from here on
    penstock("keys", "test", "main", cwd=service.folder)
    service.said("the old one stays in use", 1)
    assert service.calls_of_one_task() == [carried("refused")]

    kept = b"".join(file.read_bytes() for file in (service.folder / ".penstock").rglob("*") if file.is_file())
    assert "secret-" not in service.logs()
    assert not [word for word in (b"secret-main", b"secret-team", b"secret-proxy") if word in kept]
