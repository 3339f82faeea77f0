"""What `--simulate` makes of a configuration."""

import tomllib
from pathlib import Path

import pytest

from app.cli import presets
from app.cli.setup import Simulation, read, simulate, to_toml
from app.settings import Settings, key_secrets, load_settings
from simulator.config import build_config

CONFIGURATION = """
default_model = "fast"
[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
min_tls = "1.3"
[[upstream]]
name = "other"
base_url = "https://other.example/v1"
[[key]]
name = "one"
upstream = "deepseek"
secret = "env:REAL_SECRET"
account = "acme"
[[key]]
name = "two"
upstream = "other"
secret = "file:/etc/secret"
[[quota]]
account = "acme"
model = "deepseek-flash"
rpm = 600
burst = 40
concurrency = 5
[[quota]]
key = "two"
tpm = 1000
[[model]]
name = "fast"
tiers = [["one:deepseek-flash"], ["two"]]
[retry.patient]
attempts = 9
[callbacks]
allow_networks = ["10.0.0.0/8"]
"""


@pytest.fixture
def simulation(tmp_path: Path) -> tuple[Simulation, Settings]:
    """The simulation, and the settings that components would read."""
    file = tmp_path / "penstock.toml"
    file.write_text(CONFIGURATION)
    made = simulate(read(file), load_settings(file, {}), port=12345, latency="0.5", folder=tmp_path)
    file.write_text(to_toml(made.configuration))
    for name, secret in made.secrets.items():
        name.write_text(secret)
    return made, load_settings(file, {})


def test_no_real_address_and_no_real_secret_is_left(simulation: tuple[Simulation, Settings]) -> None:
    _, settings = simulation
    assert {upstream.base_url for upstream in settings.upstreams} == {"http://127.0.0.1:12345/v1"}
    secrets = key_secrets(settings, {})
    assert [secret.get_secret_value() for secret in secrets.values()] == [
        "sk-simulated-one",
        "sk-simulated-two",
    ]


def test_everything_else_is_as_configured(simulation: tuple[Simulation, Settings]) -> None:
    _, settings = simulation
    assert settings.default_model == "fast"
    assert settings.retry["patient"].attempts == 9
    assert settings.callbacks.allow_networks == ("10.0.0.0/8",)
    assert [quota.rpm for quota in settings.quotas] == [600, None]


def test_quotas_become_the_limits_of_the_simulator(simulation: tuple[Simulation, Settings]) -> None:
    made, _ = simulation
    config = build_config(made.upstream)
    assert config.keys == {"sk-simulated-one": "acme", "sk-simulated-two": "two"}
    assert set(config.models) == {"deepseek-flash", "fast"}
    account, key = config.limits
    assert (account.account, account.model, account.rpm, account.concurrency) == (
        "acme",
        "deepseek-flash",
        600,
        5,
    )
    assert account.burst_seconds == 4.0  # as much at once as the quota says
    assert (key.key, key.model, key.tpm, key.burst_seconds) == ("sk-simulated-two", "*", 1000, 2.0)


@pytest.mark.parametrize(
    "file", [presets.DEEPSEEK, presets.SIMULATED, presets.DEMO], ids=lambda file: file.name
)
def test_every_preset_is_a_good_configuration_and_can_be_simulated(file: Path) -> None:
    settings = load_settings(file, {})
    made = simulate(read(file), settings, port=1, latency="lognormal:1.0,0.5", folder=Path("keys"))
    assert build_config(made.upstream).latency.mean == 1.0
    assert tomllib.loads(to_toml(made.configuration))["default_model"] == settings.default_model
