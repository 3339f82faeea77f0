"""What `penstock up` starts, and in what order it may."""

import os
import sys
from pathlib import Path

import pytest

from app.cli.stack import Stack, components
from app.cli.supervisor.child import Child
from app.cli.supervisor.decisions import Component
from app.settings import Settings, secret_variables
from tests.stack import wait_until


def names(**choices: object) -> dict[str, tuple[str, ...]]:
    """Each component and what it starts after."""
    basis: dict[str, object] = {"host": "127.0.0.1", "port": 1, "flower_port": 2, "workers": 1}
    stack = Stack(data=Path("data"), drain_seconds=30, **{**basis, **choices})  # type: ignore[arg-type]
    return {part.name: part.after for part in components(stack, lambda _url: lambda: True, lambda: True)}


def test_everything_waits_for_the_database_and_our_redis() -> None:
    found = names(redis_port=3)
    assert found["database"] == found["redis"] == ()
    for name in ("api", "dispatcher", "worker-1", "callbacks"):
        assert set(found[name]) == {"database", "redis"}


def test_secrets_reach_only_the_processes_that_need_them() -> None:
    settings = Settings.model_validate(
        {"storage": {"encryption_key": "env:CONTENT"}, "alerts": {"warning": ["env:CHANNEL"]}}
    )
    secrets = secret_variables(settings)
    assert {"CONTENT", "CHANNEL", "PENSTOCK_ADMIN_KEY"} <= secrets
    stack = Stack(
        host="::1", port=1, flower_port=2, workers=1, data=Path("d"), drain_seconds=1, redis_port=3,
        simulator_port=4, simulator_file=Path("s"), secrets=secrets,
    )  # fmt: skip
    found = {part.name: part.hidden for part in components(stack, lambda _: lambda: True, lambda: True)}
    assert all(found[name] == secrets for name in ("redis", "flower", "upstream"))
    assert not any(found[name] for name in ("api", "dispatcher", "worker-1", "callbacks"))


def test_a_child_does_not_get_what_is_hidden_from_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    show = (sys.executable, "-c", "import os; print(sorted(os.environ))")
    part = Component("flower", show, hidden=frozenset({"SECRET"}))
    lines: list[str] = []
    child = Child(
        part, {"SECRET": "x", "OPEN": "y"}, reading, tmp_path / "log", lambda _name, line: lines.append(line)
    )
    wait_until(lambda: bool(lines), within=20)
    child.kill()
    os.close(reading), os.close(writing)
    assert "'OPEN'" in lines[0]
    assert "SECRET" not in lines[0]


def test_a_given_redis_is_not_started() -> None:
    assert "redis" not in names()


def test_workers_wait_for_the_simulated_upstream_and_flower_for_a_worker() -> None:
    found = names(workers=2, simulator_port=4, simulator_file=Path("sim.json"))
    assert "upstream" in found["worker-1"]
    assert "upstream" in found["worker-2"]
    assert found["flower"] == ("worker-1",)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("here", "here"),
    ],
)
def test_the_address_shown_is_one_that_this_machine_can_reach(host: str, expected: str) -> None:
    stack = Stack(host=host, port=8000, flower_port=1, workers=1, data=Path("d"), drain_seconds=1)
    assert stack.url == f"http://{expected}:8000"
