"""/metrics: who sees what, and the figures of several processes as one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric

from app.reporting.meter_files import FOLDER, FolderCollector, clean_folder
from tests.api.world import ADMIN_KEY, Client, Parts, World
from tests.stack import ROOT

COUNT = """
import sys
from app.reporting.meters import Meters
meters = Meters()
meters.ended({"succeeded": int(sys.argv[1])})
meters.turned(0.5)
meters.watch("penstock_waiters", lambda: 2.0)
print("counted", flush=True)
sys.stdin.readline()
"""


def test_figures_by_client_are_for_administrators(world: World, alice: Client) -> None:
    alice.submit()
    alice.submit_batch(2)
    shown = {
        "nobody": world.app.test_client().get("/metrics").text,
        "alice": alice.get("/metrics").text,
        "administrator": world.anonymous(ADMIN_KEY).get("/metrics").text,
    }
    for who, page in shown.items():
        assert 'penstock_tasks_submitted_total{model="deepseek-flash",way="batch"}' in page
        # Not her id: this process may have met more clients by now than are shown by name.
        assert ("penstock_client_" in page) == (who == "administrator"), who


def test_a_key_that_is_not_known_is_refused(world: World) -> None:
    assert world.anonymous("pk_wrong").get("/metrics").status_code == 401


def test_a_submission_that_is_repeated_counts_once(world: World, alice: Client) -> None:
    before = submitted(world)
    for _ in range(2):
        alice.post("/v1/tasks", {"prompt": "once"}, Idempotency_Key="k")
    assert submitted(world) - before == 1


def test_ends_are_counted_once_they_are_committed_whoever_ends_them(world: World, alice: Client) -> None:
    before = ended(world)
    done, cancelled = alice.submit(), alice.submit()
    world.end(done)
    for _ in range(2):
        assert alice.post(f"/v1/tasks/{cancelled}/cancel").status_code == 200
    after = ended(world)
    assert after["succeeded"] - before["succeeded"] == 1
    assert after["cancelled"] - before["cancelled"] == 1


def submitted(world: World) -> float:
    labels = {"way": "single", "model": "deepseek-flash"}
    return world.parts.meters.registry.get_sample_value("penstock_tasks_submitted_total", labels) or 0.0


def ended(world: World) -> dict[str, float]:
    registry = world.parts.meters.registry
    name = "penstock_tasks_finished_total"
    return {
        status: registry.get_sample_value(name, {"status": status}) or 0.0
        for status in ("succeeded", "cancelled")
    }


@pytest.fixture
def count(tmp_path: Path) -> Callable[[int], "subprocess.Popen[bytes]"]:
    """Start a process that counts so many ends into the folder, and stays."""
    clean_folder(tmp_path)

    def start(ends: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT, str(ends)],
            env={**os.environ, FOLDER: str(tmp_path), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"counted\n"
        return process

    return start


def sums(folder: Path) -> dict[str, float]:
    """What the processes have counted together."""
    families: list[Metric] = list(FolderCollector(folder).collect())
    wanted = ("penstock_tasks_finished", "penstock_dispatcher_tick_seconds", "penstock_waiters")
    return {
        sample.name: sample.value
        for family in families
        if family.name in wanted
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_what_a_dead_process_has_counted_stays_and_its_files_go(
    tmp_path: Path, count: Callable[[int], "subprocess.Popen[bytes]"]
) -> None:
    one, other = count(3), count(4)
    try:
        both = sums(tmp_path)
        assert both["penstock_tasks_finished_total"] == 7
        assert both["penstock_dispatcher_tick_seconds_count"] == 2
        assert both["penstock_waiters"] == 4
        one.send_signal(signal.SIGKILL)
        one.wait()
        for _ in range(2):
            left = sums(tmp_path)
            assert left["penstock_tasks_finished_total"] == 7
            assert left["penstock_dispatcher_tick_seconds_count"] == 2
            assert left["penstock_dispatcher_tick_seconds_sum"] == 1.0
            assert left["penstock_waiters"] == 2
        assert not list(tmp_path.glob(f"*_{one.pid}.db"))
    finally:
        for process in (one, other):
            process.kill()
            process.communicate()
    last = sums(tmp_path)
    assert last["penstock_tasks_finished_total"] == 7
    assert sorted(file.name for file in tmp_path.glob("*.db")) == ["counter_gone.db", "histogram_gone.db"]


def test_a_new_run_begins_at_nothing(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"old")
    clean_folder(tmp_path)
    assert list(tmp_path.glob("*.db")) == []


def test_parts_without_a_gauge_say_that_redis_is_away(world: World) -> None:
    assert isinstance(world.parts, Parts)
    assert "penstock_redis_up 0.0" in world.app.test_client().get("/metrics").text
