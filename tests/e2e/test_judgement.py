"""The dispatcher's judgement on the whole service: hidden limits, a revoked account, a storm of 503."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from simulator.latency import Latency
from simulator.limits import Limit
from tests.stack import Key, Stack, configuration, key_environment, wait_until

MODEL = "deepseek-flash"


def stack_over(
    upstream: SimulatorProcess, keys: list[Key], folder: Path, database_url: str, redis_url: str
) -> Stack:
    config = configuration(upstream.base_url, keys)
    environment = key_environment(keys)
    stack = Stack(folder, config, database_url=database_url, redis_url=redis_url, environment=environment)
    return stack.start_all(callbacks=False)


def upstream_with(keys: list[Key], *limits: Limit, latency: float) -> SimulatorProcess:
    secrets = {f"sk-{key.name}": key.account or key.name for key in keys}
    return SimulatorProcess(SimulatorConfig(keys=secrets, limits=limits, latency=Latency(mean=latency)))


def test_a_hidden_cap_is_found_and_hardly_ever_met(tmp_path: Path, sqlite_url: str, redis_url: str) -> None:
    keys = [Key("k1")]
    with (
        upstream_with(keys, Limit(account="k1", concurrency=30), latency=1.0) as upstream,
        stack_over(upstream, keys, tmp_path / "stack", sqlite_url, redis_url) as stack,
    ):
        batch = stack.admin.submit_batch(f"Number {n}" for n in range(300))
        done = stack.admin.finished_batch(batch["id"])
        totals = upstream.stats()["totals"]
    assert done["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
    assert sum(totals["refused"].values()) <= 20
    assert totals["max_in_flight"] >= 24  # found, and used


def test_a_revoked_accounts_load_moves_and_nothing_fails(
    tmp_path: Path, sqlite_url: str, redis_url: str
) -> None:
    keys = [Key("k1", rpm=1200, concurrency=20), Key("k2", rpm=1200, concurrency=20)]
    with (
        upstream_with(keys, latency=0.2) as upstream,
        stack_over(upstream, keys, tmp_path / "stack", sqlite_url, redis_url) as stack,
    ):
        batch = stack.admin.submit_batch(f"Number {n}" for n in range(260))
        wait_until(lambda: len(upstream.log()) > 40)
        upstream.set_faults(Fault("401", key="sk-k1"))
        before = len(upstream.log())
        done = stack.admin.finished_batch(batch["id"])
        served = Counter(call["key"] for call in upstream.log()[before:] if call["status"] == 200)
    assert done["request_counts"] == {"total": 260, "completed": 260, "failed": 0}
    assert served["sk-k2"] > 10 * max(1, served["sk-k1"])


def test_a_storm_loses_no_task_and_wastes_few_calls(tmp_path: Path, sqlite_url: str, redis_url: str) -> None:
    keys = [Key("k1", concurrency=20)]
    with (
        upstream_with(keys, latency=0.5) as upstream,
        stack_over(upstream, keys, tmp_path / "stack", sqlite_url, redis_url) as stack,
    ):
        batch = stack.admin.submit_batch(f"Number {n}" for n in range(200))
        wait_until(lambda: len(upstream.log()) > 40)
        upstream.set_faults(Fault("503", until_seconds=4))
        upstream.start_clock()
        done = stack.admin.finished_batch(batch["id"])
        wasted = sum(call["outcome"] == "503" for call in upstream.log())
    assert done["request_counts"] == {"total": 200, "completed": 200, "failed": 0}
    # All that may be in flight when it breaks out, those that took the places of four failures before the fifth in a
    # row opened the breaker, and one probe within its four seconds.
    assert wasted <= 20 + 4 + 1
