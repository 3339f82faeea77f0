"""The page about the simulator leaves nothing out."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from simulator.command import simulate_upstream
from simulator.config import SimulatorConfig
from simulator.faults import KINDS, Fault
from simulator.limits import Limit

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
OPTIONS = [parameter.opts[0] for parameter in simulate_upstream.params]
FIELDS = [field.name for tree in (SimulatorConfig, Fault, Limit) for field in fields(tree)]


@pytest.mark.parametrize("name", [*KINDS, *OPTIONS, *FIELDS])
def test_every_option_field_and_fault_stands_on_the_page(name: str) -> None:
    assert re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w-])[^`\n]*`", PAGE)
