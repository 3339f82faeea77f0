"""Periodic jobs: each at its own pace, whatever the others raise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.platform.background_loop import EACH_ROUND, MORE, Cooldown, PeriodicJob, run_due


def recorder(said: list[str], name: str, answer: object = None) -> Callable[[], object]:
    def run() -> object:
        said.append(name)
        return answer

    return run


def test_a_job_runs_at_once_and_then_when_it_is_due() -> None:
    said: list[str] = []
    jobs = [
        PeriodicJob("each", EACH_ROUND, recorder(said, "each")),
        PeriodicJob("slow", 5.0, recorder(said, "slow")),
    ]
    for at in (100.0, 101.0, 104.9, 105.0):
        run_due(jobs, at, pytest.fail)
    assert said == ["each", "slow", "each", "each", "each", "slow"]


def test_a_job_that_left_work_is_due_again_at_once() -> None:
    left = [MORE, MORE, None]
    job = PeriodicJob("walk", 600.0, lambda: left.pop(0))
    assert [job.tick(float(at)) for at in range(5)] == [True, True, True, False, False]
    assert left == []


def test_a_job_that_fails_is_reported_by_name_and_stops_no_other() -> None:
    said: list[str] = []
    failures: list[tuple[str, str]] = []

    def fail() -> None:
        said.append("bad")
        raise ValueError("x")

    jobs = [PeriodicJob("bad", 5.0, fail), PeriodicJob("good", EACH_ROUND, recorder(said, "good"))]
    for at in (0.0, 1.0, 5.0):
        run_due(jobs, at, lambda name, error: failures.append((name, str(error))))
    assert said == ["bad", "good", "good", "bad", "good"]
    assert failures == [("bad", "x"), ("bad", "x")]


def test_a_cooldown_that_is_reset_is_ready_at_once() -> None:
    cooldown = Cooldown(60.0)
    assert [cooldown.ready(0.0), cooldown.ready(59.0), cooldown.ready(60.0)] == [True, False, True]
    cooldown.reset()
    assert cooldown.ready(60.0)
