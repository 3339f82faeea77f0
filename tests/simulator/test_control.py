"""The simulator's own endpoints and its process."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.limits import Limit
from tests.simulator.calling import chat_body, get, post, post_many, until
from tests.simulator.conftest import Upstream

ROOT = Path(__file__).parents[2]


def test_faults_are_set_counted_and_cleared_while_it_runs(upstream: Upstream) -> None:
    simulator = upstream()
    told = simulator.set_faults(Fault("503", count=1), {"name": "500"})
    assert [fault["name"] for fault in told["faults"]] == ["503", "500"]
    assert [post(simulator.url, chat_body()).status for _ in range(3)] == [503, 500, 500]
    faults = get(simulator.url, "/_sim/faults").json()["faults"]
    assert [fault["struck"] for fault in faults] == [1, 2]
    simulator.set_faults()
    assert post(simulator.url, chat_body()).status == 200


@pytest.mark.parametrize("change", [{"limits": [{"key": "*", "rpm": 0}]}, {"nonsense": 1}, {"slots": -1}])
def test_a_bad_change_is_refused_and_changes_nothing(upstream: Upstream, change: dict[str, object]) -> None:
    simulator = upstream()
    before = get(simulator.url, "/_sim/config").json()
    with pytest.raises(ValueError, match=next(iter(change))):
        simulator.configure(**change)
    assert get(simulator.url, "/_sim/config").json() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sim/config", b"{"),
        ("/_sim/config", []),
        ("/_sim/faults", [{"name": "x"}]),
        ("/_sim/faults", {"fault": []}),
        ("/_sim/clock", {"seconds": "now"}),
    ],
)
def test_a_control_request_that_makes_no_sense_is_a_422(upstream: Upstream, path: str, body: object) -> None:
    answer = post(upstream().url, body, path=path)
    assert answer.status == 422
    assert answer.json()["error"]["message"]


def test_limits_change_while_calls_are_in_flight(upstream: Upstream) -> None:
    simulator = upstream(slots=0, keep_alive_seconds=60.0)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(post_many, simulator.url, [chat_body()] * 2)
        until(lambda: simulator.stats()["totals"]["in_flight"] == 2)
        simulator.configure(limits=(Limit(key="*", concurrency=3),))
        second = pool.submit(post_many, simulator.url, [chat_body()] * 3)
        until(lambda: simulator.stats()["totals"]["received"] == 5)
        simulator.configure(slots=None)
    assert [status for status, _ in first.result()] == [200, 200]
    assert sorted(status for status, _ in second.result()) == [200, 429, 429]


def test_a_reset_forgets_everything_but_the_configuration(upstream: Upstream) -> None:
    simulator = upstream(limits=(Limit(key="*", rpm=6),))
    assert [post(simulator.url, chat_body()).status for _ in range(2)] == [200, 429]
    simulator.reset()
    assert simulator.stats()["totals"]["received"] == 0
    assert simulator.log() == []
    assert [post(simulator.url, chat_body()).status for _ in range(2)] == [200, 429]


def test_the_same_seed_lets_the_same_calls_fail_after_a_reset(upstream: Upstream) -> None:
    simulator = upstream(faults=(Fault("503", rate=0.5),), seed=5)
    first = [post(simulator.url, chat_body()).status for _ in range(20)]
    simulator.reset()
    assert [post(simulator.url, chat_body()).status for _ in range(20)] == first
    assert {200, 503} == set(first)


def test_the_log_is_read_page_by_page(upstream: Upstream) -> None:
    simulator = upstream()
    post_many(simulator.url, [chat_body(f"number {number}") for number in range(25)])
    page = get(simulator.url, "/_sim/log?after=20&limit=3").json()
    assert [call["sequence"] for call in page["calls"]] == [21, 22, 23]
    assert page["last"] == 25
    assert len(simulator.log()) == 25
    assert get(simulator.url, "/_sim/log?after=x").status == 422


def test_connections_are_counted(upstream: Upstream) -> None:
    simulator = upstream(slots=0, keep_alive_seconds=60.0)
    with ThreadPoolExecutor() as pool:
        pool.submit(post_many, simulator.url, [chat_body()] * 12)
        until(lambda: simulator.stats()["totals"]["in_flight"] == 12)
        simulator.configure(slots=None)
    stats = simulator.stats()
    assert stats["connections_opened"] >= 12
    assert stats["max_connections_open"] >= 12
    until(lambda: simulator.stats()["connections_open"] <= 2)


def test_a_process_listens_where_it_says_and_ends_when_told() -> None:
    with SimulatorProcess(SimulatorConfig(keys={"sk-1": "acme"})) as simulator:
        assert post(simulator.url, chat_body(), key="sk-1").status == 200
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        post(simulator.url, chat_body(), key="sk-1")
    simulator.stop()  # again: harmless


def test_it_ends_quickly_while_calls_are_held() -> None:
    with SimulatorProcess(SimulatorConfig(faults=(Fault("timeout"),))) as simulator:
        pending = subprocess.Popen(
            [sys.executable, "-c", _HANG, simulator.url, json.dumps(chat_body())], stderr=subprocess.PIPE
        )
        until(lambda: simulator.stats()["totals"]["in_flight"] == 1)
    _, errors = pending.communicate(timeout=120)
    assert b"RemoteDisconnected" in errors or b"reset" in errors


_HANG = """
import sys, urllib.request
headers = {"Authorization": "Bearer sk-simulated"}
request = urllib.request.Request(sys.argv[1] + "/chat/completions", sys.argv[2].encode(), headers)
urllib.request.urlopen(request, timeout=120)
"""


def test_a_taken_port_is_an_error_that_names_it(upstream: Upstream) -> None:
    port = upstream().url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "simulator", "--port", port]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
