"""What the README shows can be pasted."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.settings import load_settings
from tests.cli.running import CHECKOUT
from tests.e2e.up import Up

pytestmark = pytest.mark.xdist_group("up")

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def curl_commands() -> list[str]:
    """Each curl command, its continued lines joined."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("curl ")]


def in_an_hour() -> str:
    """A time to run at that keeps a task waiting."""
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_curl_line_does_what_it_says(up: Up, tmp_path: Path) -> None:
    address = up.profile.url.removeprefix("http://")
    task = up.call("POST", "/v1/tasks", {"prompt": "hello"})
    waiting = up.call(
        "POST", "/v1/tasks", {"prompt": "hello", "model": "slow/model.v1", "run_at": in_an_hour()}
    )
    batch = up.call("POST", "/v1/batch", {"requests": [{"prompt": "hello"}]})
    env = {"KEY": up.profile.api_key, "ID": task["id"], "BATCH": batch["id"], "PATH": "/usr/bin:/bin"}
    commands = curl_commands()
    assert len(commands) >= 8
    for command in commands:
        line = command.replace("localhost:8000", address).replace("$ID/cancel", f"{waiting['id']}/cancel")
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        for answered in done.stdout.splitlines():
            assert json.loads(answered).get("object") or "custom_id" in answered, (command, done.stdout)


def test_the_configuration_shown_is_a_good_one(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    file = tmp_path / "penstock.toml"
    file.write_text(shown)
    assert load_settings(file, {}).default_model == "deepseek-flash"


def test_every_page_that_is_linked_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert [link for link in links if not (CHECKOUT / link).exists()] == []
