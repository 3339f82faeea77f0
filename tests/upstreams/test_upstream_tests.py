"""Keys tested at a real server: GET /models and GET /user/balance."""

from __future__ import annotations

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import ClassVar

import orjson
import pytest

from app.platform.ports import SystemClock
from app.settings import Settings
from app.upstreams.domain.key_health import KeyTestResult, Probe, Probed
from app.upstreams.key_tests import UpstreamTests
from simulator.client import SimulatorProcess
from simulator.config import Account, SimulatorConfig
from simulator.faults import Fault
from tests.upstreams.wire import WireServer, answer, answering

SECRET = "sk-simulated-one"


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(SimulatorConfig(keys={SECRET: "acme"})) as process:
        yield process


@pytest.fixture
def known(simulator: SimulatorProcess) -> SimulatorProcess:
    """It knows the key, and has no faults."""
    simulator.configure(keys={SECRET: "acme"}, accounts={"acme": Account()}, faults=[])
    return simulator


def probed(base_url: str, probe: Probe, **environ: str) -> Probed:
    settings = Settings.model_validate(
        {
            "upstream": [{"name": "up", "base_url": base_url}],
            "key": [{"name": "k1", "upstream": "up", "secret": "env:K1"}],
            "health": {"timeout": 30},
        }
    )
    found = UpstreamTests(settings, environ, SystemClock()).test("k1", probe)
    assert SECRET not in str(dataclasses.asdict(found))
    return found


def test_a_key_that_is_known_works(known: SimulatorProcess) -> None:
    found = probed(known.base_url, Probe.MODELS, K1=SECRET)
    assert (found.finding, found.status) == (KeyTestResult.WORKS, 200)
    assert 0 < found.seconds < 30


def test_a_key_that_was_revoked_is_refused(known: SimulatorProcess) -> None:
    known.configure(keys={"sk-another-one": "acme"})
    found = probed(known.base_url, Probe.MODELS, K1=SECRET)
    assert (found.finding, found.status) == (KeyTestResult.REFUSED, 401)


def test_the_balance_decides_whether_an_account_is_used_again(known: SimulatorProcess) -> None:
    known.configure(accounts={"acme": Account(Decimal(0))})
    assert probed(known.base_url, Probe.BALANCE, K1=SECRET).finding is KeyTestResult.REFUSED
    known.configure(accounts={"acme": Account(Decimal(5))})
    assert probed(known.base_url, Probe.BALANCE, K1=SECRET).finding is KeyTestResult.WORKS


def test_where_there_is_no_such_page_nothing_is_known(known: SimulatorProcess) -> None:
    found = probed(f"{known.url}/elsewhere", Probe.MODELS, K1=SECRET)
    assert (found.finding, found.status) == (KeyTestResult.NOT_OFFERED, 404)


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (
            b'[{"error": {"code": 400, "message": "API key expired. Please renew it."}}]',
            KeyTestResult.REFUSED,
        ),
        (b'{"error": {"message": "unknown parameter"}}', KeyTestResult.NO_ANSWER),
    ],
)
def test_a_key_that_is_refused_with_400_is_known_by_the_words(body: bytes, finding: KeyTestResult) -> None:
    with WireServer(answering(answer(body, "400 Bad Request"))) as server:
        found = probed(f"{server.url}/v1", Probe.MODELS, K1=SECRET)
    assert (found.finding, found.status) == (finding, 400)


@pytest.mark.parametrize("kind", ["500", "503", "malformed", "truncated", "reset"])
def test_a_fault_tells_nothing_of_a_balance(known: SimulatorProcess, kind: str) -> None:
    known.set_faults(Fault(kind, endpoint="balance"))
    found = probed(known.base_url, Probe.BALANCE, K1=SECRET)
    assert found.finding in (KeyTestResult.NO_ANSWER, KeyTestResult.NOT_OFFERED)


def test_an_upstream_that_is_not_there_is_no_answer() -> None:
    found = probed("http://127.0.0.1:1/v1", Probe.MODELS, K1=SECRET)
    assert (found.finding, found.status) == (KeyTestResult.NO_ANSWER, None)


def test_a_secret_that_cannot_be_had_is_named_by_its_reference() -> None:
    found = probed("http://127.0.0.1:1/v1", Probe.MODELS)
    assert found.finding is KeyTestResult.NOT_OFFERED  # a call by a worker that has it will tell
    assert "K1 is not set in the environment" in found.words


class Listing(http.server.BaseHTTPRequestHandler):
    """A list of models, open to anybody or to those with a key."""

    is_open = True
    models: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        known = self.is_open or "authorization" in self.headers
        body = orjson.dumps({"data": self.models} if known else {"error": {"message": "no key"}})
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def listed(*, is_open: bool, models: list[dict[str, str]]) -> Probed:
    handler = type("Handler", (Listing,), {"is_open": is_open, "models": models})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings.model_validate(
            {
                "upstream": [{"name": "up", "base_url": f"http://127.0.0.1:{server.server_port}/v1"}],
                "key": [{"name": "k1", "upstream": "up", "secret": "env:K1"}],
                "model": [{"name": "ours", "tiers": [["k1:theirs"]]}, {"name": "flash", "tiers": [["k1"]]}],
            }
        )
        try:
            return UpstreamTests(settings, {"K1": SECRET}, SystemClock()).test("k1", Probe.MODELS)
        finally:
            server.shutdown()


BOTH = [{"id": "theirs"}, {"id": "models/flash"}]


def test_a_list_that_is_open_to_anybody_proves_nothing() -> None:
    found = listed(is_open=True, models=BOTH)
    assert (found.finding, found.proves) == (KeyTestResult.WORKS, False)
    assert "anybody" in found.words
    closed = listed(is_open=False, models=BOTH)
    assert (closed.finding, closed.proves, closed.words) == (KeyTestResult.WORKS, True, "the key works")


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([{"id": "flash"}], "the key works; its list of models lacks theirs"),
        (
            [{"id": "theirs", "status": "maintenance"}, {"id": "flash"}],
            "the key works; not available now: theirs (maintenance)",
        ),
        (
            [{"id": "theirs", "status": "active"}, {"id": "flash", "status": "offline"}],
            "the key works; not available now: flash (offline)",
        ),
        ([], "the key works"),
    ],
)
def test_the_configured_models_are_looked_for_in_the_list(models: list[dict[str, str]], words: str) -> None:
    assert listed(is_open=False, models=models).words == words
