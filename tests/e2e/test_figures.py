"""The figures of all processes of `penstock up`, at the API's /metrics."""

import re

import pytest

from tests.cli.running import http, wait_until
from tests.e2e.up import Up

pytestmark = pytest.mark.xdist_group("up")


def figures(up: Up) -> dict[str, float]:
    """Every sample by its name and labels, as an administrator sees them."""
    answer = http(
        "GET", up.profile.url + "/metrics", headers={"Authorization": f"Bearer {up.profile.api_key}"}
    )
    assert answer is not None
    lines = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", answer.data.decode(), re.MULTILINE)
    return {name: float(value) for name, value in lines}


def test_api_dispatcher_and_workers_count_into_one_page(up: Up) -> None:
    before = figures(up)
    batch = up.call("POST", "/v1/batch", {"requests": [{"prompt": f"count me {n}"} for n in range(5)]})

    def gained(name: str) -> float:
        return figures(up).get(name, 0.0) - before.get(name, 0.0)

    wait_until(
        lambda: up.call("GET", f"/v1/batch/{batch['id']}")["status"] == "completed",
        told=lambda: str(figures(up)),
    )
    attempts = 'penstock_attempts_total{key="main",model="deepseek-flash",outcome="succeeded"}'
    submitted = 'penstock_tasks_submitted_total{model="deepseek-flash",way="batch"}'
    assert gained(submitted) >= 5
    wait_until(lambda: gained(attempts) >= 5, told=lambda: str(figures(up)))
    wait_until(lambda: gained('penstock_tasks_finished_total{status="succeeded"}') >= 5)
    wait_until(lambda: gained("penstock_dispatcher_tick_seconds_count") > 0)
    wait_until(lambda: gained('penstock_client_tokens_total{client="admin",kind="prompt"}') > 0)
    for gauge, least in (("leader_up", 1), ("workers", 1), ("database_connections_limit", 20)):
        name = f"penstock_{gauge}"  # each process brings its own up to date every few seconds
        wait_until(
            lambda name=name, least=least: figures(up).get(name, 0) >= least, told=lambda name=name: name
        )
    shown = figures(up)
    assert not [name for name in shown if name.startswith("flower_")]
