"""`penstock simulate`: from flags, from a configuration, from the running service's database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli.profile import Profile, save
from app.cli.root import group
from app.platform.database import Database
from app.platform.migrate import upgrade
from tests.tasks import rows

CONFIG = """\
[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com/v1"
[[key]]
name = "main"
upstream = "deepseek"
secret = "env:KEY"
[[key]]
name = "second"
upstream = "deepseek"
secret = "env:KEY_2"
[[quota]]
account = "main"
model = "deepseek-flash"
rpm = 600
[[model]]
name = "deepseek-flash"
tiers = [["main", "second"]]
"""


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["simulate", *arguments])


def played(*arguments: str) -> dict[str, object]:
    done = simulate(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "penstock.toml"
    file.write_text(CONFIG)
    return file


def test_keys_made_up_by_flags_are_played_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = simulate("--load", "600", "--keys", "2", "--rpm", "600", "--latency", "1")
    assert done.exit_code == 0, done.output
    assert "600 tasks, 2 keys; no upstream was called." in done.output
    assert "one more account like" in done.output
    assert "Bottleneck: rpm of account key-" in done.output


def test_a_configuration_is_played_with_its_prices_and_what_was_assumed_is_said(config: Path) -> None:
    answer = played("--load", "300", "--latency", "1", "--tokens", "1000,100")
    first = answer["variants"][0]  # type: ignore[index]
    assert (first["done"], list(first["costs"])) == (300, ["USD"])
    assert answer["assumed_limits"] == ["second: deepseek-flash"]
    assert [variant["name"] for variant in answer["variants"]][1:] != []  # type: ignore[attr-defined]


def test_some_keys_alone(config: Path) -> None:
    first = played("--load", "300", "--keys", "main", "--latency", "1")["variants"][0]  # type: ignore[index]
    assert first["calls_by_key"] == {"main": 300}
    assert first["seconds"] == pytest.approx(31, rel=0.05)


def test_the_running_services_backlog_and_calls_are_taken(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    database = Database(url)
    rows.add(database, *(rows.new_task() for _ in range(40)))
    database.close()
    monkeypatch.setenv("DATABASE_URL", url)
    first = played("--from-live", "--latency", "1")["variants"][0]  # type: ignore[index]
    assert first["done"] == 40


def test_the_configuration_is_that_of_the_running_service(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "data", Profile(configuration=str(config.absolute())))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)
    first = played("--load", "30", "--data", str(tmp_path / "data"))["variants"][0]  # type: ignore[index]
    assert first["done"] == 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--load TASKS or --from-live"),
        (["--load", "many"], "--load 50000"),
        (["--load", "other=5"], "Models: deepseek-flash"),
        (["--load", "5", "--keys", "nope"], "Keys: main, second"),
        (["--load", "5", "--keys", "3"], "Add --rpm, --tpm or --concurrency"),
        (["--load", "5", "--tokens", "x"], "--tokens PROMPT,ANSWER"),
        (["--load", "5", "--latency", "soon"], "lognormal:MEAN,SIGMA"),
    ],
)
def test_what_cannot_be_played_is_said(config: Path, arguments: list[str], said: str) -> None:
    done = simulate(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_several_concurrencies_stand_in_one_table_with_waits_and_what_held_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    flags = ("--load", "300", "--arrive", "5", "--keys", "1", "--rpm", "600", "--latency", "1")
    told = played(*flags, "--concurrency", "2,50", "--price", "0.5,2")
    small, large = told["variants"]  # type: ignore[misc]
    assert (small["name"], large["name"]) == ("concurrency 2", "concurrency 50")
    assert small["held_up_by_limit"][0]["limit"] == "concurrency"
    assert small["wait_seconds"]["p50"] > 10 > large["wait_seconds"]["p99"]
    assert small["response_seconds"]["p99"] >= small["wait_seconds"]["p99"]
    assert small["costs"] == large["costs"] == {"USD": "0.375"}  # 300 of 500 + 500 tokens
    page = simulate(*flags, "--concurrency", "2,50").stdout
    assert "concurrency of account key-1" in page


def test_made_up_keys_cost_what_the_default_model_does(config: Path) -> None:
    price = '[[price]]\nupstream = "deepseek"\nmodel = "own"\ncurrency = "USD"\nmiss = "1"\noutput = "1"\n'
    config.write_text('default_model = "own"\n' + CONFIG.replace("deepseek-flash", "own") + price)
    [first, *_] = played("--load", "100", "--keys", "1", "--rpm", "600", "--latency", "1")["variants"]  # type: ignore[misc]
    assert first["costs"] == {"USD": "0.10"}


@pytest.mark.parametrize(
    "wrong",
    [
        ("--concurrency", "5,x"),
        ("--concurrency", "0"),
        ("--rpm", "9", "--price", "1"),
        ("--rpm", "9", "--arrive", "-1"),
    ],
)
def test_wrong_figures_are_refused_with_what_to_write(config: Path, wrong: tuple[str, ...]) -> None:
    done = simulate("--load", "10", "--keys", "1", *wrong)
    assert done.exit_code == 2
    assert "Write --" in done.stderr
