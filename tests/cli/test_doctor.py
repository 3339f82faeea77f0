"""`penstock doctor` as an operator starts it."""

import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.root import group
from app.platform.migrate import upgrade
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.cli.running import environment, penstock

SECRETS = ("sk-doctor-one-1234567890", "hunter2-of-redis", "hunter2-of-postgres", "hunter2-of-alerts")

CONFIG = """
default_model = "deepseek-flash"
[[upstream]]
name = "sim"
base_url = "{url}"
[[key]]
name = "main"
upstream = "sim"
secret = "env:ONE_KEY"
[[key]]
name = "unset"
upstream = "sim"
secret = "env:NOT_SET_ANYWHERE"
[alerts]
critical = ["env:WELL_FORMED", "env:BROKEN", "env:NOT_SET_EITHER"]
[[model]]
name = "deepseek-flash"
tiers = [["main", "unset"]]
"""


def test_every_part_is_looked_at_and_no_secret_is_told(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path}/penstock.db")
    with SimulatorProcess(SimulatorConfig(keys={SECRETS[0]: "acme"})) as upstream:
        (tmp_path / "penstock.toml").write_text(CONFIG.format(url=upstream.base_url))
        env = environment(
            ONE_KEY=SECRETS[0],
            WELL_FORMED="json://127.0.0.1:1/x",
            BROKEN=f"nothing://{SECRETS[3]}",
            DATABASE_URL=f"sqlite:///{tmp_path}/penstock.db",
            REDIS_URL=f"redis://:{SECRETS[1]}@127.0.0.1:1/0",
        )
        (tmp_path / "data" / "logs").mkdir(parents=True)
        (tmp_path / "data" / "logs" / "worker.log").write_text(f"with {SECRETS[0]}\n")
        data = ("--data", str(tmp_path / "data"), "--ntp", "")
        said = penstock("doctor", "--json", *data, "--bundle", "b.zip", cwd=tmp_path, env=env)
    assert said.returncode == 2, said.stderr
    told = json.loads(said.stdout)
    levels = {(row["section"], row["name"]): row["level"] for row in told["checks"]}
    assert (told["worst"], told["exit_code"]) == ("fail", 2)
    assert levels["Configuration", "file"] == "ok"
    assert levels["Configuration", "secret of unset"] == "fail"
    assert levels["Redis", "reached"] == "fail"
    assert levels["Database", "migrations"] == "ok"
    assert levels["Processes", "dispatcher"] == "fail"
    assert levels["Upstream sim", "TCP"] == "ok"
    assert levels["Upstream sim", "packet loss"] == "ok"
    assert levels["Upstream sim", "hops"] == "ok"
    assert levels["Upstream sim", "status page"] == "not_measured"
    assert levels["This machine", "disk speed of data"] != "not_measured"
    assert levels["This machine", "clock"] == "not_measured"
    assert levels["Processes", "API"] == "not_measured"
    assert levels["Key main", "/models"] == "ok"
    assert levels["Key main", "/user/balance"] == "ok"
    assert [levels["Alerts", f"critical {number}"] for number in (1, 2, 3)] == ["ok", "fail", "fail"]
    assert ("Key unset", "/models") not in levels
    assert all(row["hint"] for row in told["checks"] if row["level"] != "ok")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        held = {name: archive.read(name).decode() for name in archive.namelist()}
    assert json.loads(held["doctor.json"])["worst"] == "fail"
    assert json.loads(held["configuration.json"])["key"][0]["secret"] == "env:ONE_KEY"
    assert json.loads(held["calls.json"]) == []
    assert held["logs/worker.log"] == "with (hidden)\n"
    assert (tmp_path / "b.zip").stat().st_mode & 0o077 == 0
    assert not any(secret in said.stdout + said.stderr + str(held) for secret in SECRETS)


def test_a_wrong_configuration_is_a_finding_and_the_rest_is_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "penstock.toml").write_text('default_model = "x"\n[[upstream]]\nname = 3\n')
    monkeypatch.chdir(tmp_path)
    for name in ("REDIS_URL", "CACHE_URL", "PENSTOCK_CONFIG", "PENSTOCK_DATA", "PENSTOCK_FLOWER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{SECRETS[2]}@127.0.0.1:1/x")
    said = CliRunner().invoke(group, ["doctor"])
    assert said.exit_code == 2
    assert "penstock.toml:2" in said.stdout
    assert "no Redis is configured" in said.stdout
    assert "does not answer" in said.stdout
    assert "open files" in said.stdout
    assert SECRETS[2] not in said.output
