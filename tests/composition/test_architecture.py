"""Who may import what, where import-linter's words do not reach."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOMAINS = sorted((ROOT / "app").glob("*/domain/**/*.py"))


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; say the whole name"
            yield node.module or ""


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_a_domain_stands_on_the_standard_library_and_other_domains_alone() -> None:
    assert len(DOMAINS) > 60
    for file in DOMAINS:
        for name in _imported(file):
            stdlib = name.partition(".")[0] in sys.stdlib_module_names
            ours = name.split(".")[:1] == ["app"] and name.split(".")[2:3] == ["domain"]
            assert stdlib or ours, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", ["app", "workers"])
def test_the_simulator_shares_nothing_of_ours_but_settings(package: str) -> None:
    files = sorted((ROOT / "simulator").rglob("*.py"))
    assert files
    for file in files:
        for name in _imported(file):
            allowed = _inside(name, "simulator") or _inside(name, "app.settings")
            assert allowed or not _inside(name, package), f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("module", ["time", "socket", "threading", "subprocess", "os"])
def test_time_and_the_outside_reach_a_domain_as_arguments(module: str) -> None:
    """Identifiers are the exception: a new one is made of chance, and counted within the process."""
    for file in DOMAINS:
        if file.name != "task.py":
            assert module not in set(_imported(file)), f"{file.relative_to(ROOT)} imports {module}"


def test_every_room_says_what_it_does() -> None:
    for folder in sorted((ROOT / "app").iterdir()):
        if folder.is_dir() and folder.name not in ("__pycache__", "cli"):
            said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
            assert len(said.splitlines()) >= 4, folder.name
