"""Each service of docker-compose.yml runs by its command line, over a real Redis and PostgreSQL."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.cli import presets
from app.platform.migrate import upgrade
from tests.cli.running import CHECKOUT, Running, environment, penstock
from tests.ports import kept_port
from tests.servers import PostgresServer

SERVICES: dict[str, Any] = YAML(typ="safe").load(CHECKOUT / "docker-compose.yml")["services"]
READY = {  # what health.py says, or what the log says where the health check is Celery's own
    "api": ("http", "http://127.0.0.1:{port}/readyz"),
    "dispatcher": ("leader",),
    "flower": ("http", "http://127.0.0.1:{port}/healthcheck"),
}
ADMIN = "pk_" + "a" * 43


def compose_environment(database_url: str, redis_url: str) -> dict[str, str]:
    """What compose sets."""
    return environment(
        PENSTOCK_CONFIG=str(presets.SIMULATED),
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        SIMULATED="sk-none",
        PENSTOCK_ADMIN_KEY=ADMIN,
        FLOWER_BASIC_AUTH="ops:word",
        FLOWER_ADDRESS="127.0.0.1",
    )


@pytest.fixture(scope="module")
def migrated_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database with the schema, for all tests here."""
    url = postgres_server.create_database()
    upgrade(url)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def env(migrated_url: str, redis_url: str) -> dict[str, str]:
    """The environment of a service whose `migrate` is done."""
    return compose_environment(migrated_url, redis_url)


def arguments(service: str, port: int = 0) -> list[str]:
    """The service's command without `penstock`, on a port and address of the test's own."""
    program, *rest = SERVICES[service]["command"]
    assert program == "penstock"
    ours = {"8000": str(port), "5555": str(port), "0.0.0.0": "127.0.0.1"}
    return [ours.get(word, word) for word in rest]


def healthy(check: tuple[str, ...], port: int, env: dict[str, str]) -> bool:
    """What the service's health check says."""
    words = [word.format(port=port) for word in check]
    command = [sys.executable, str(CHECKOUT / "deploy" / "health.py"), *words]
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0


def exit_code(line: str, env: dict[str, str]) -> int:
    """Of a line for the shell."""
    return subprocess.run(
        ["sh", "-c", line], env=env, cwd=CHECKOUT, capture_output=True, check=False
    ).returncode


def test_migrate_runs_to_its_end_twice_and_status_knows_it(postgresql_url: str, tmp_path: Path) -> None:
    env = compose_environment(postgresql_url, "redis://127.0.0.1/0")
    assert penstock("db", "status", cwd=tmp_path, env=env).returncode == 1
    for _ in range(2):
        assert penstock(*arguments("migrate"), cwd=tmp_path, env=env).returncode == 0
    assert penstock("db", "status", cwd=tmp_path, env=env).returncode == 0


@pytest.mark.parametrize("service", sorted(READY))
def test_a_service_becomes_healthy_and_ends_with_0_on_sigterm(
    service: str, env: dict[str, str], tmp_path: Path
) -> None:
    port = kept_port()
    with Running(*arguments(service, port), cwd=tmp_path, env=env) as running:
        running.becomes(lambda: healthy(READY[service], port, env))
        assert running.end() == 0, running.said


@pytest.mark.parametrize("service", ["worker", "callback-worker"])
def test_a_celery_worker_answers_the_ping_of_its_health_check_and_ends_with_0_on_sigterm(
    service: str, env: dict[str, str], tmp_path: Path
) -> None:
    check = str(SERVICES[service]["healthcheck"]["test"][1]).replace("$$", "$")
    check = check.replace("celery -A", f"{sys.executable} -m celery -A")
    named = {**env, "HOSTNAME": os.uname().nodename}
    with Running(*arguments(service), cwd=tmp_path, env=env) as running:
        running.becomes(lambda: exit_code(check, named) == 0)
        assert running.end() == 0, running.said


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[tuple[Running, int]]:
    """`penstock simulate-upstream` on a port of its own."""
    port = kept_port()
    with Running("simulate-upstream", "--port", str(port), cwd=tmp_path) as running:
        yield running, port


def test_the_simulated_upstream_answers_and_ends_with_0(simulator: tuple[Running, int]) -> None:
    running, port = simulator
    url = f"http://127.0.0.1:{port}/stats"
    running.becomes(lambda: healthy(("http", url), port, environment()))
    assert running.end() == 0


def test_a_client_is_added_once_and_its_secrets_are_shown(env: dict[str, str], tmp_path: Path) -> None:
    first = penstock("clients", "add", "team-a", "--weight", "2", cwd=tmp_path, env=env)
    again = penstock("clients", "add", "team-a", cwd=tmp_path, env=env)
    listed = penstock("clients", "list", cwd=tmp_path, env=env)
    assert (first.returncode, again.returncode, listed.returncode) == (0, 1, 0)
    assert "pk_" in first.stdout
    assert "whsec_" in first.stdout
    assert "already" in again.stderr
    assert "team-a" in listed.stdout
    assert "whsec_" not in listed.stdout


def test_a_bad_client_name_is_refused_in_one_line(env: dict[str, str], tmp_path: Path) -> None:
    refused = penstock("clients", "add", "Team A", cwd=tmp_path, env=env)
    assert refused.returncode == 1
    assert refused.stderr.startswith("penstock: id")


def test_commands_without_a_database_say_what_to_do(tmp_path: Path) -> None:
    for words in (("db", "status"), ("clients", "list")):
        refused = penstock(*words, cwd=tmp_path)
        assert refused.returncode == 3
        assert "DATABASE_URL" in refused.stderr


def test_an_unreachable_database_is_said_in_one_line(tmp_path: Path) -> None:
    env = environment(DATABASE_URL=f"postgresql://nobody@127.0.0.1:{kept_port()}/none")
    refused = penstock("db", "upgrade", cwd=tmp_path, env=env)
    assert refused.returncode == 4
    assert "Traceback" not in refused.stderr


def test_an_unreachable_service_is_said_in_one_line(tmp_path: Path) -> None:
    env = environment(PENSTOCK_URL=f"http://127.0.0.1:{kept_port()}", PENSTOCK_API_KEY=ADMIN)
    refused = penstock("tasks", "list", cwd=tmp_path, env=env)
    assert refused.returncode == 4
    assert "penstock up" in refused.stderr


def test_a_wrong_configuration_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('default_model = "x"\nnonsense = 1\n')
    refused = penstock("up", cwd=tmp_path)
    assert refused.returncode == 3
    assert "penstock.toml:2" in refused.stderr


def test_autoscale_says_what_it_would_run_and_runs_it_only_when_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    env = environment(DATABASE_URL=url)
    program = ("--command", f"touch {tmp_path}/scaled-{{replicas}}", "--min", "2", "--once")
    dry = penstock("autoscale", *program, "--dry-run", cwd=tmp_path, env=env)
    assert dry.returncode == 0, dry.stderr
    assert "CPU unknown, 0 workers: 2 wanted" in dry.stdout
    assert f"touch {tmp_path}/scaled-2" in dry.stdout
    assert not (tmp_path / "scaled-2").exists()
    assert penstock("autoscale", *program, cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / "scaled-2").exists()
    assert penstock("autoscale", "--low", "90", cwd=tmp_path, env=env).returncode == 2
