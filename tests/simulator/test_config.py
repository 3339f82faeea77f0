"""Configurations: read from files, changed, and refused with the field that is wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from simulator.command import apply_options, simulate_upstream
from simulator.config import (
    Account,
    SimulatorConfig,
    SimulatorConfigError,
    build_config,
    change_config,
    load_config,
    to_plain,
)
from simulator.faults import KINDS, Fault
from simulator.latency import Latency
from simulator.limits import Limit

TOML = """
latency = "lognormal:1.0,0.5"
slots = 100
[keys]
sk-1 = "acme"
[accounts.acme]
balance = "10.50"
[models.deepseek-flash]
context_tokens = 1000
[[limits]]
account = "acme"
model = "deepseek-flash"
rpm = 600
retry_after = "none"
[[faults]]
name = "503"
from_seconds = 10
until_seconds = 70
"""


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "simulator.toml"
    file.write_text(TOML, encoding="utf-8")
    config = load_config(file)
    assert config.latency == Latency("lognormal", mean=1.0, sigma=0.5)
    assert config.accounts == {"acme": Account(Decimal("10.50"))}
    assert config.limits == (Limit(account="acme", model="deepseek-flash", rpm=600, retry_after="none"),)
    assert config.faults == (Fault("503", from_seconds=10, until_seconds=70),)
    assert config.models["deepseek-flash"].context_tokens == 1000


def test_a_json_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "simulator.json"
    file.write_text('{"latency": 0.5, "keys": {"a": "b"}}', encoding="utf-8")
    assert load_config(file) == SimulatorConfig(latency=Latency(mean=0.5), keys={"a": "b"})


def test_a_configuration_survives_being_written_and_read() -> None:
    config = SimulatorConfig(
        accounts={"acme": Account(Decimal("1.5"))},
        limits=(Limit(key="*", rpm=60),),
        faults=(Fault("drip", interval=0.1),),
        latency=Latency("uniform", low=1, high=2),
    )
    assert build_config(to_plain(config)) == config
    assert build_config(to_plain(SimulatorConfig())) == SimulatorConfig()


def test_a_change_replaces_the_fields_it_names_and_no_other() -> None:
    config = SimulatorConfig(limits=(Limit(key="*", rpm=60),), seed=3)
    assert change_config(config, {"seed": 4}) == SimulatorConfig(limits=(Limit(key="*", rpm=60),), seed=4)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"latencies": 1}, "latencies"),
        ({"limits": [{"key": "*", "rmp": 1}]}, "limits.0.rmp"),
        ({"limits": [{"key": "a", "account": "b"}]}, "not of both"),
        ({"faults": [{"name": "sunspots"}]}, "unknown fault"),
        ({"faults": [{"name": "503", "rate": 2}]}, "between 0 and 1"),
        ({"latency": "quick"}, "write SECONDS"),
        ({"slots": -1}, "slots"),
        ({"unknown_model_status": 500}, "unknown_model_status"),
    ],
)
def test_an_error_names_what_is_wrong(data: dict[str, Any], named: str) -> None:
    with pytest.raises(SimulatorConfigError, match=named):
        build_config(data)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("latency = ", encoding="utf-8")
    with pytest.raises(SimulatorConfigError, match=r"broken\.toml"):
        load_config(file)


def test_options_lie_over_the_file() -> None:
    config = apply_options(
        SimulatorConfig(seed=1, limits=(Limit(account="*", rpm=1),)),
        keys=(("sk-1", "acme"),),
        rpm=600,
        burst_seconds=1.0,
        faults=(Fault("503", rate=0.1),),
    )
    assert config.seed == 1
    assert config.keys == {"sk-1": "acme"}
    assert config.limits == (Limit(key="*", rpm=600, burst_seconds=1.0),)
    assert config.faults == (Fault("503", rate=0.1),)


def test_help_names_every_option_and_fault() -> None:
    text = CliRunner().invoke(simulate_upstream, ["--help"]).output
    for option in simulate_upstream.params:
        assert isinstance(option, click.Option)
        assert option.opts[0] in text
        assert option.help
    assert all(name in text for name in KINDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fault", "sunspots=0.1"], "unknown fault"),
        (["--fault", "503=often"], "often"),
        (["--latency", "quick"], "write SECONDS"),
        (["--key", "=acme"], "empty"),
        (["--rpm", "0"], "--rpm"),
        (["--config", "/nowhere.toml"], "nowhere"),
    ],
)
def test_a_wrong_option_is_refused_by_name(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(simulate_upstream, arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_a_wrong_file_ends_the_command_with_its_error(tmp_path: Path) -> None:
    file = tmp_path / "simulator.toml"
    file.write_text("latency = 'quick'", encoding="utf-8")
    result = CliRunner().invoke(simulate_upstream, ["--config", str(file)])
    assert result.exit_code == 3
    assert "simulator.toml: latency" in result.output
