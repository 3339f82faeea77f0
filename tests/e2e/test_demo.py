"""`penstock demo`, as it is, with fewer prompts."""

import re
import signal
from pathlib import Path

import pytest

from tests.cli.running import Running, environment, penstock, survivors, wait_until

pytestmark = pytest.mark.xdist_group("demo")


def test_the_demo_shows_the_whole_way_ends_with_0_and_leaves_nothing(tmp_path: Path) -> None:
    done = penstock("demo", "--tasks", "60", cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(re.findall(r"│ (.+?) +│ +(.+?) │", done.stdout))
    assert table["tasks succeeded"] == "60 of 60"
    assert table["429s received"] == "0"
    assert table["callbacks verified"] == "13 of 13"
    assert list(tmp_path.iterdir()) == []


def test_a_killed_demo_takes_its_service_with_it(tmp_path: Path) -> None:
    with Running("demo", cwd=tmp_path, env=environment(TMPDIR=str(tmp_path))) as running:
        family = wait_until(lambda: found if len(found := running.family()) >= 5 else None)
        running.end(signal.SIGKILL)
        assert survivors(family) == []


def test_money_is_spent_only_after_a_yes(tmp_path: Path) -> None:
    without_key = penstock("demo", "--upstream", "deepseek", cwd=tmp_path)
    assert without_key.returncode == 3
    assert "DEEPSEEK_API_KEY" in without_key.stderr
    env = environment(UPSTREAM="deepseek", DEEPSEEK_API_KEY="sk-none")
    unanswered = penstock("demo", cwd=tmp_path, env=env)
    assert unanswered.returncode == 1
    assert "SPENDS MONEY" in unanswered.stdout
    assert "starting" not in unanswered.stdout
