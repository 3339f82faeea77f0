"""`penstock load-test` as an operator starts it, against a service on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli.profile import Profile, save
from app.cli.root import group

CONFIG = """
default_model = "own"
[[upstream]]
name = "u"
base_url = "http://127.0.0.1:9/v1"
[[key]]
name = "k"
upstream = "u"
secret = "env:K"
[[model]]
name = "own"
tiers = [["k"]]
"""
FREE, PAID = (
    f'''
[[price]]
upstream = "u"
model = "own"
currency = "USD"
since = 2024-01-01
miss = "{price}"
output = "{price}"
'''
    for price in ("0", "2")
)


class Service(BaseHTTPRequestHandler):
    """Answers chats; a second of which is refused where the server is told to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append((self.headers["Authorization"], body))
        self.send_response(503 if server.refuses and len(server.seen) % 2 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.lock, server.seen, server.refuses = threading.Lock(), [], False
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(60)


@pytest.fixture
def data(tmp_path: Path, service: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PENSTOCK_URL", "PENSTOCK_API_KEY", "PENSTOCK_CONFIG", "PENSTOCK_DATA", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("K", "secret-of-an-upstream")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    save(folder, Profile(url=service.url, api_key="pk-test", configuration=str(tmp_path / "penstock.toml")))
    return folder


def load_test(data: Path, *more: str) -> Result:
    steps = ("--users", "1,3", "--seconds", "0.2", "--most", "50", "--json")
    return CliRunner().invoke(group, ["load-test", "--data", str(data), *steps, *more])


def test_a_free_model_is_loaded_in_steps_and_its_figures_and_verdict_told(data: Path, service: Any) -> None:
    (data.parent / "penstock.toml").write_text(CONFIG + FREE)
    said = load_test(data, "--out", "history.jsonl")
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert (told["model"], told["cost_at_most"]) == ("own", "0, by its price")
    assert told["verdict"].startswith("passed: ")
    assert 0 < len(service.seen) <= 50
    assert sum(step["requests"] for step in told["steps"]) == len(service.seen)
    assert all(0 < step["p50_seconds"] <= step["p99_seconds"] for step in told["steps"])
    assert {key for key, _ in service.seen} == {"Bearer pk-test"}
    prompts = [body["messages"][0]["content"] for _, body in service.seen]
    assert len(set(prompts)) == len(prompts)
    [kept] = Path("history.jsonl").read_text().splitlines()
    assert json.loads(kept) == told


def test_too_many_errors_fail_it(data: Path, service: Any) -> None:
    (data.parent / "penstock.toml").write_text(CONFIG + FREE)
    service.refuses = True
    said = load_test(data)
    assert said.exit_code == 1
    told = json.loads(said.stdout)
    assert [step["users"] for step in told["steps"]] == [1]
    assert told["steps"][0]["errors"].keys() == {"503"}
    assert "errors" in told["verdict"]


@pytest.mark.parametrize(("price", "words"), [(PAID, "may cost up to 0."), ("", "it has no price")])
def test_money_is_spent_only_when_asked_for(data: Path, service: Any, price: str, words: str) -> None:
    (data.parent / "penstock.toml").write_text(CONFIG + price)
    said = load_test(data)
    assert said.exit_code == 1
    assert words in said.stderr
    assert "--yes" in said.stderr
    assert service.seen == []
    assert load_test(data, "--yes").exit_code == 0
    assert service.seen != []


def test_a_simulated_service_costs_nothing_but_only_the_one_of_the_profile(data: Path, service: Any) -> None:
    simulation = data / "simulation"
    simulation.mkdir()
    (simulation / "penstock.toml").write_text(CONFIG)
    save(data, Profile(url=service.url, api_key="pk-test", simulator_url="http://127.0.0.1:9"))
    assert json.loads(load_test(data).stdout)["cost_at_most"] == "0, simulated"
    seen = len(service.seen)
    elsewhere = load_test(data, "--url", service.url.replace("127.0.0.1", "localhost"))
    assert elsewhere.exit_code == 1
    assert len(service.seen) == seen


def test_a_wrong_configuration_is_told_with_its_line(data: Path, service: Any) -> None:
    (data.parent / "penstock.toml").write_text(CONFIG + "[[key]]\nname = 3\n")
    said = load_test(data)
    assert said.exit_code == 3
    assert "penstock.toml:1" in said.stderr
    assert service.seen == []


@pytest.mark.parametrize(
    "wrong", [("--users", "5,1"), ("--users", "0"), ("--users", "x"), ("--every", "often"), ("--every", "5s")]
)
def test_wrong_steps_and_times_are_refused_with_what_to_write(data: Path, wrong: tuple[str, str]) -> None:
    said = load_test(data, *wrong)
    assert said.exit_code == 2
    assert "Write --" in said.stderr
