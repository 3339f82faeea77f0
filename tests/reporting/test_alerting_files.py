"""Rules, runbook, dashboard and code name the same alerts and figures."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram
from ruamel.yaml import YAML

from app.reporting.meters import FIGURES, SERVICE_FIGURES
from app.settings.domain.alert_rules import RULES
from app.tasks.domain.attempt import Outcome
from simulator.faults import KINDS
from tests.chaos.test_chaos import EVERY

ROOT = Path(__file__).parents[2]
RULES_FILE = ROOT / "deploy" / "prometheus" / "alerts.yml"
NAMES = [rule.name for rule in RULES]
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


def shown() -> set[str]:
    """Every name that /metrics may show."""
    found = set(SERVICE_FIGURES)
    for figure in FIGURES:
        if figure.kind is Counter:
            found.add(f"{figure.name}_total")
        elif figure.kind is Histogram:
            found |= {f"{figure.name}{end}" for end in ("_bucket", "_count", "_sum")}
        else:
            found.add(figure.name)
    return found


def rules() -> list[dict[str, object]]:
    groups = YAML(typ="safe").load(RULES_FILE.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def entries() -> dict[str, str]:
    """The runbook's entries by alert."""
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_prometheus_watches_what_penstock_watches_itself() -> None:
    assert {rule["alert"]: rule["labels"]["severity"] for rule in rules()} == {  # type: ignore[index]
        rule.name: rule.severity.value for rule in RULES
    }


def test_prometheus_waits_as_long_as_penstock_itself() -> None:
    for told, rule in zip(rules(), RULES, strict=True):
        found = re.fullmatch(r"(\d+)([sm])", str(told.get("for", "0s")))
        assert found
        assert int(found[1]) * {"s": 1, "m": 60}[found[2]] == rule.seconds, rule.name


def test_every_alert_has_an_entry_with_all_that_is_asked_of_it_and_no_entry_is_left_over() -> None:
    assert list(entries()) == NAMES
    for name, text in entries().items():
        for heading in ("Meaning", "Look first", "Fix", "Drill"):
            assert f"**{heading}.**" in text, (name, heading)


def test_every_rule_links_to_its_entry() -> None:
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert']}"  # type: ignore[index]


def test_every_drill_is_a_fault_that_there_is() -> None:
    faults = {fault.name for fault in EVERY} | set(KINDS)
    for name, text in entries().items():
        drills = re.findall(r"`([^`]+)`", text.partition("**Drill.**")[2])
        assert [word for word in drills if word in faults], name
        named = [word for word in drills if re.match(r"(upstream|redis|postgres|worker|leader)-", word)]
        assert set(named) <= faults, name


def test_alerts_are_documented_with_their_severities() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert rows == [(rule.name, rule.severity.value) for rule in RULES]


@pytest.mark.parametrize(
    "file", ["prometheus/alerts.yml", "prometheus/alerts_test.yml", "grafana/penstock.json"]
)
def test_every_figure_that_is_asked_for_is_shown_by_the_code(file: str) -> None:
    text = (ROOT / "deploy" / file).read_text(encoding="utf-8")
    used = set(re.findall(r"\bpenstock_[a-z_]+", text))
    assert used
    assert used <= shown()


def test_every_outcome_in_the_rules_is_one() -> None:
    text = RULES_FILE.read_text(encoding="utf-8")
    named = {word for found in re.findall(r'outcome!?=~?"([a-z_|]+)"', text) for word in found.split("|")}
    assert named <= {outcome.value for outcome in Outcome}


def test_the_dashboard_shows_every_figure_that_can_be_shown() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "penstock.json").read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel.get("targets", ()))
    left_out = [figure.name for figure in FIGURES if figure.name not in asked]
    left_out += [name for name in SERVICE_FIGURES if name not in asked]
    assert left_out == []
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def expressions(title: str) -> list[str]:
    board = json.loads((ROOT / "deploy" / "grafana" / "penstock.json").read_text(encoding="utf-8"))
    [panel] = [panel for panel in board["panels"] if panel["title"] == title]
    return [target["expr"] for target in panel["targets"]]


@pytest.mark.parametrize(
    ("title", "parts"),
    [
        ("Success rate", ['outcome="succeeded"']),
        ("Error rate", ["timed_out"]),
        ("Response time of upstream calls", ["_sum", "(0.5,", "(0.9,", "(0.95,", "(0.99,"]),
        ("Waiting by model", ["or vector(0)"]),
        ("Oldest wait", ["or vector(0)"]),
    ],
)
def test_the_dashboard_has_rates_mean_and_percentiles_and_no_gaps(title: str, parts: list[str]) -> None:
    asked = " ".join(expressions(title))
    assert [part for part in parts if part not in asked] == []


def test_panels_do_not_overlap() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "penstock.json").read_text(encoding="utf-8"))
    cells: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in board["panels"]):
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells
        cells |= mine


def test_the_monitoring_profile_mounts_files_that_exist_and_provisions_the_dashboard() -> None:
    compose = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    monitoring = {
        name for name, one in compose["services"].items() if "monitoring" in one.get("profiles", ())
    }
    assert monitoring == {"prometheus", "grafana"}
    mounted = [
        volume.split(":") for volume in compose["services"]["grafana"]["volumes"] if volume.startswith("./")
    ]
    assert all((ROOT / source).exists() for source, *_ in mounted)
    files = [one["file"] for name, one in compose["configs"].items() if name != "penstock"]
    assert all((ROOT / file).exists() for file in files)
    used = [one["source"] for one in compose["services"]["prometheus"]["configs"]]
    assert set(used) <= set(compose["configs"])
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    read = {
        file.parent.name: YAML(typ="safe").load(file.read_text()) for file in folder.glob("*/penstock.yml")
    }
    assert read["datasources"]["datasources"][0]["url"] == "http://prometheus:9090"
    path = read["dashboards"]["providers"][0]["options"]["path"]
    assert any(target.startswith(f"{path}/") for _, target, *_ in mounted)


@promtool
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_prometheus_takes_the_rules_and_they_fire_as_they_should(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=RULES_FILE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_takes_the_example_of_its_own_configuration(tmp_path: Path) -> None:
    folder = ROOT / "deploy" / "prometheus"
    text = (folder / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/etc/prometheus/penstock-key", str(tmp_path / "key"))
    )
    (tmp_path / "key").write_text("pk_x")
    shutil.copy(RULES_FILE, tmp_path)
    command = ["promtool", "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_every_question_of_the_dashboard_is_one_that_prometheus_understands(tmp_path: Path) -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "penstock.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    told = [
        {"record": f"q{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(asked)
    ]
    file = tmp_path / "questions.yml"
    file.write_text(json.dumps({"groups": [{"name": "questions", "rules": told}]}))
    command = ["promtool", "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
