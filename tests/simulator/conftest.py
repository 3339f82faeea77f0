"""One simulator process for all tests of a run; each test gets it forgotten and configured anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simulator.client import SimulatorControl, SimulatorProcess
from simulator.config import SimulatorConfig, to_plain

Upstream = Callable[..., SimulatorControl]


@pytest.fixture(scope="session")
def simulator_process() -> Iterator[SimulatorProcess]:
    with SimulatorProcess() as process:
        yield process


@pytest.fixture
def upstream(simulator_process: SimulatorProcess) -> Upstream:
    """Called with fields of the configuration, gives a simulator that has just that and has seen nothing."""

    def prepare(**fields: Any) -> SimulatorControl:
        simulator_process.configure(**to_plain(SimulatorConfig(**fields)))
        simulator_process.reset()
        return simulator_process

    return prepare
