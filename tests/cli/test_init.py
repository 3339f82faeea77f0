"""`penstock init`: asked and by options; what stands there already is kept; keys are tried at a real server."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.root import group
from app.settings import load_settings
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from tests.cli.running import command, environment


def init(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["init", *arguments])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "penstock.toml"


def test_options_write_a_file_that_loads(out: Path) -> None:
    done = init("--preset", "deepseek", "--key", "env:MINE", "--no-test", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert load_settings(out, {}).keys[0].secret == "env:MINE"
    assert f"penstock up --config {out}" in done.output
    assert [file.name for file in out.parent.iterdir()] == ["penstock.toml"]


def test_what_is_there_is_overwritten_only_when_told_to(out: Path) -> None:
    out.write_text("mine")
    arguments = ["--preset", "deepseek", "--no-test", "--out", str(out)]
    done = init(*arguments)
    assert done.exit_code == 1
    assert "--force" in done.output
    assert out.read_text() == "mine"
    assert init(*arguments, "--force").exit_code == 0
    assert load_settings(out, {}).keys


def test_a_secret_by_itself_is_refused_and_written_nowhere(out: Path) -> None:
    done = init("--preset", "deepseek", "--key", "sk-hunter2", "--no-test", "--out", str(out))
    assert done.exit_code == 2
    assert "hunter2" not in done.output
    assert not out.exists()


def test_the_list_names_every_provider_with_its_address(out: Path) -> None:
    said = init("--list").output
    assert "https://api.siliconflow.cn/v1" in said
    assert "env:HF_TOKEN" in said


def test_each_key_is_tried_and_the_result_is_said(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOD_KEY", "sk-good")
    monkeypatch.setenv("BAD_KEY", "sk-bad-hunter2")
    monkeypatch.delenv("NO_KEY", raising=False)
    with SimulatorProcess(SimulatorConfig(keys={"sk-good": "acme"})) as upstream:
        where = ["--preset", "gateway", "--base-url", upstream.base_url, "--model", "m", "--out", str(out)]
        good = init(*where, "--key", "env:GOOD_KEY")
        bad = init(*where, "--force", "--key", "env:GOOD_KEY", "--key", "env:BAD_KEY", "--key", "env:NO_KEY")
    assert good.exit_code == 0, good.output
    assert "Key gateway works" in good.output
    assert bad.exit_code == 1
    assert "Key gateway-1 works" in bad.output
    assert "Key gateway-2 is refused: the upstream refuses the key (401)" in bad.output
    assert "Key gateway-3 is not tested: it cannot be tested from here: NO_KEY is not set" in bad.output
    assert "hunter2" not in bad.output
    assert len(load_settings(out, {}).keys) == 3


def test_without_a_preset_and_without_anybody_to_ask_it_says_what_to_name(out: Path) -> None:
    done = init("--out", str(out))
    assert done.exit_code == 2
    assert "--preset NAME" in done.output


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    """Provider, address, key, no other key, models, no other provider."""
    leading, following = pty.openpty()
    answers = "vllm\nhttp://127.0.0.1:9/v1\nsk-hunter2\nenv:MINE\nllama3=llama3:8b, other\nn\n"
    with subprocess.Popen(
        command("init", "--no-test"), cwd=tmp_path, env=environment(), stdin=following, stdout=subprocess.PIPE
    ) as asked:
        os.close(following)
        os.write(leading, answers.encode())
        output, _ = asked.communicate(timeout=60)
        os.close(leading)
    assert asked.returncode == 0, output
    settings = load_settings(tmp_path / "penstock.toml", {})
    assert settings.upstreams[0].base_url == "http://127.0.0.1:9/v1"
    assert settings.keys[0].secret == "env:MINE"
    assert [model.name for model in settings.models] == ["llama3", "other"]
